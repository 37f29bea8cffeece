// The API page, made from /openapi.json: what each route is for, its fields, code to copy, and a way to try it.
import { at, button, copy, make } from "./dom.js";
import { base, bodies, samples, takesImages } from "./samples.js";

const LONGEST = 6; // numbers of an array that are shown
const WIDEST = 160; // characters of a string that are shown

let api = null;
let serial = 0;

const resolved = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema ?? {});

function kind(schema) {
  const known = resolved(schema);
  if (known.const !== undefined) return JSON.stringify(known.const);
  if (known.enum) return known.enum.map((value) => JSON.stringify(value)).join(" | ");
  const several = known.anyOf ?? known.oneOf;
  if (several) return [...new Set(several.map(kind))].filter((name) => name !== "null").join(" | ");
  if (known.type === "array") return `list of ${kind(known.items)}`;
  return known.type ?? "anything";
}

/** Rows of name, type, default and words; an object's own fields follow it as filters.year_min. */
function fields(schema, prefix = "") {
  const known = resolved(schema);
  return Object.entries(known.properties ?? {}).flatMap(([name, field]) => {
    const inner = resolved(field.allOf?.[0] ?? field);
    const row = { name: prefix + name, type: kind(field), needed: known.required?.includes(name), otherwise: field.default, words: field.description };
    return [row, ...(inner.properties ? fields(inner, `${prefix}${name}.`) : [])];
  });
}

function table(rows, title) {
  const list = make("dl", { className: "fields" });
  for (const row of rows) {
    const facts = [row.type, row.needed ? "needed" : "", plain(row.otherwise)].filter(Boolean).join(" · ");
    list.append(make("dt", {}, make("code", { textContent: row.name }), make("span", { textContent: facts })));
    list.append(make("dd", { textContent: row.words ?? "" }));
  }
  return rows.length ? [make("h3", { textContent: title }), list] : [];
}

function plain(value) {
  const empty = value === undefined || value === null || (typeof value === "object" && !Object.keys(value).length);
  return empty ? "" : `${JSON.stringify(value)} unless told`;
}

function choice(name, label, options, act) {
  const select = make("select", { id: `choice-${(serial += 1)}`, name });
  select.append(...options.map((option, number) => make("option", { value: number, textContent: option })));
  select.addEventListener("change", () => act(Number(select.value)));
  return [make("label", { htmlFor: select.id, textContent: label }), select];
}

/** Code in the chosen language for the chosen example, and a button that copies it. */
function codeBlock(path, method, operation) {
  const examples = bodies(operation);
  const chosen = { example: 0, language: "curl" };
  const code = make("code");
  const languages = make("div", { className: "languages", role: "group", ariaLabel: "Language" });
  const paint = () => {
    const found = samples(path, method, operation, examples[chosen.example]?.value);
    code.textContent = found[chosen.language];
    languages.replaceChildren(...Object.keys(found).map((name) => {
      const pick = button(name, () => { chosen.language = name; paint(); languages.querySelector('[aria-pressed="true"]').focus(); });
      pick.setAttribute("aria-pressed", String(name === chosen.language));
      return pick;
    }));
  };
  paint();
  const pick = examples.length > 1 ? choice("example", "Example", examples.map((example) => example.summary), (number) => { chosen.example = number; chosen.language = "curl"; paint(); }) : [];
  const bar = make("div", { className: "bar" }, languages, make("span", { className: "pick" }, ...pick), button("Copy", () => copy(code.textContent, "Code"), "quiet"));
  const block = make("pre", { tabIndex: 0, ariaLabel: `Code for ${path}` }, code);
  return { element: make("div", { className: "code" }, bar, block), example: () => examples[chosen.example]?.value };
}

const shortened = (name, value) => {
  if (Array.isArray(value) && value.length > LONGEST && value.every((entry) => typeof entry === "number")) return [...value.slice(0, LONGEST), `… ${value.length} numbers`];
  return typeof value === "string" && value.length > WIDEST ? `${value.slice(0, WIDEST)}… ${value.length} characters` : value;
};

async function answer(response) {
  const media = response.headers.get("content-type") ?? "";
  if (media.startsWith("application/json")) return JSON.stringify(await response.json(), shortened, 2);
  return media.startsWith("text/") ? (await response.text()).slice(0, 4000) : `${media}, ${(await response.blob()).size} bytes`;
}

/** A form that sends the request from this page and shows what comes back. */
function trial(path, method, operation, example) {
  const out = make("pre", { tabIndex: 0, hidden: true, ariaLabel: `Answer of ${path}` });
  const said = make("p", { className: "said", role: "status" });
  const images = takesImages(operation);
  const body = example() && make("textarea", { id: `body-${(serial += 1)}`, rows: 8, spellcheck: false });
  const file = images && make("input", { id: `file-${(serial += 1)}`, type: "file", accept: "image/*,.dcm", required: true });
  const refill = () => { if (body) body.value = JSON.stringify(example(), null, 2); };
  const form = make("form", { className: "trial" });
  if (body) form.append(make("label", { htmlFor: body.id, textContent: "Body" }), body);
  if (file) form.append(make("label", { htmlFor: file.id, textContent: "Image file" }), file);
  form.append(make("button", { className: "go", textContent: "Send" }), said, out);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "Waiting…";
    const started = performance.now();
    try {
      const options = { method: method.toUpperCase(), headers: body ? { "content-type": "application/json" } : file ? { "content-type": "application/octet-stream" } : {} };
      if (body || file) options.body = body ? body.value : file.files[0];
      const response = await fetch(base + path.replace("{name}", "biomedray"), options);
      out.textContent = await answer(response);
      said.textContent = `${response.status} ${response.ok ? "done" : "refused"} in ${Math.round(performance.now() - started)} ms`;
      out.hidden = false;
    } catch {
      said.textContent = "The service can't be reached.";
    }
  });
  const details = make("details", {}, make("summary", { textContent: "Try it" }), form);
  details.addEventListener("toggle", () => { if (details.open) refill(); });
  return details;
}

function refusals(operation) {
  const rows = Object.entries(operation.responses).filter(([status]) => status !== "200" && status !== "default");
  const list = make("dl", { className: "refusals" });
  for (const [status, { description }] of rows) list.append(make("dt", { textContent: status }), make("dd", { textContent: description.replaceAll("`", "") }));
  return make("details", {}, make("summary", { textContent: "When it is refused" }), list);
}

const anchor = (path, method) => `${method}-${path.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "")}`;

function route(path, method, operation) {
  const heading = make("h2", {}, make("span", { textContent: method.toUpperCase() }), path);
  const section = make("section", { id: anchor(path, method) }, heading, make("p", { className: "summary", textContent: `${operation.summary}.` }));
  if (operation.description) section.append(make("p", { textContent: operation.description.replaceAll("``", "").replace(/\s+/g, " ") }));
  const code = codeBlock(path, method, operation);
  section.append(code.element);
  const json = operation.requestBody?.content?.["application/json"]?.schema;
  const parameters = (operation.parameters ?? []).map((entry) => ({ name: entry.name, type: kind(entry.schema), needed: entry.required, otherwise: entry.schema?.default, words: entry.description ?? entry.schema?.description }));
  section.append(...table(parameters, "In the address"), ...table(json ? fields(json) : [], "In the body"));
  if (!path.includes("{pair_id}")) section.append(trial(path, method, operation, code.example));
  section.append(refusals(operation));
  return section;
}

function show() {
  at("about").textContent = api.info.description;
  for (const { name } of api.tags) {
    const items = make("ul");
    at("routes").append(make("p", { className: "group", textContent: name }));
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(methods).filter(([, entry]) => entry.tags?.includes(name))) {
        at("routes").append(route(path, method, operation));
        items.append(make("li", {}, make("a", { href: `#${anchor(path, method)}`, textContent: path })));
      }
    }
    at("contents").append(make("li", {}, make("span", { textContent: name }), items));
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  api = await (await fetch("openapi.json")).json();
  show();
} catch {
  at("routes").append(make("p", { className: "problem", textContent: "The description can't be loaded." }));
}
