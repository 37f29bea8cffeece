// Code that asks a route: curl made from the description's examples, Python as the description has it.

/** Where the service is, as this page was reached. */
export const base = new URL(".", location.href).href.replace(/\/$/, "");

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function bodies(operation) {
  return Object.values(operation.requestBody?.content?.["application/json"]?.examples ?? {});
}

export function takesImages(operation) {
  return "image/*" in (operation.requestBody?.content ?? {});
}

/** Code by the name of its language; of routes with several examples curl shows the chosen one. */
export function samples(path, method, operation, body) {
  const found = { curl: curl(path, method, operation, body) };
  for (const { label, source } of operation["x-codeSamples"] ?? []) found[label] = python(source);
  return found;
}

function curl(path, method, operation, body) {
  const address = quoted(base + path.replace("{pair_id}", "PAIR_ID").replace("{name}", "biomedray"));
  if (body) return `curl ${address} \\\n  -H 'content-type: application/json' \\\n  -d ${quoted(JSON.stringify(body))}`;
  if (!takesImages(operation)) return path.includes("/images/") ? `curl ${address} -o figure` : `curl ${address}`;
  const one = (media, file) => `curl ${address} -H 'content-type: ${media}' --data-binary @${file}`;
  const several = path === "/v1/embeddings/image" ? [`curl ${address} -H 'accept: application/x-npy' -F image=@one.jpg -F image=@two.png -o vectors.npy`] : [];
  return [one("image/jpeg", "figure.jpg"), one("application/dicom", "scan.dcm"), ...several].join("\n");
}

function python(source) {
  const used = (name) => new RegExp(`\\b${name}\\b`).test(source);
  const lines = [used("URL") && `URL = ${JSON.stringify(base)}`, used("KEY") && "KEY = None    # or the service's API key"];
  return `${lines.filter(Boolean).join("\n")}\n\n${source}`;
}
