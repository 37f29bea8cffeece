// The list of routes, made from /openapi.json.

const add = (parent, tag, text) => {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
};

function fields(api, operation) {
  const content = operation.requestBody?.content?.["application/json"]?.schema;
  const body = content?.$ref ? api.components.schemas[content.$ref.split("/").pop()] : content;
  const parameters = (operation.parameters ?? []).map((parameter) => [parameter.name, parameter.description ?? `in the ${parameter.in}`]);
  return [...parameters, ...Object.entries(body?.properties ?? {}).map(([name, field]) => [name, field.description ?? ""])];
}

function route(api, path, method, operation) {
  const section = document.createElement("section");
  const heading = add(section, "h2", "");
  add(heading, "span", method.toUpperCase());
  heading.append(path);
  add(section, "p", operation.description ?? operation.summary ?? "");
  const list = document.createElement("dl");
  for (const [name, text] of fields(api, operation)) {
    add(list, "dt", name);
    add(list, "dd", text);
  }
  if (list.children.length) section.append(list);
  return section;
}

const routes = document.getElementById("routes");
try {
  const api = await (await fetch("openapi.json")).json();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) routes.append(route(api, path, method, operation));
  }
} catch {
  add(routes, "p", "The description can't be loaded.");
}
