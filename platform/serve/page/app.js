// The search page: reads the form, asks POST /v1/search, shows the hits.
// Everything from the service is set as text, never as markup: captions come from articles and are not trusted.

const at = (id) => document.getElementById(id);
const EXAMPLES = [
  "chest radiograph with consolidation",
  "axial CT of the abdomen",
  "MRI of the brain, T2-weighted",
  "haematoxylin and eosin stained tissue",
  "Kaplan–Meier survival curve",
  "western blot",
  "flow chart of study selection",
];
const LICENSES = { comm: "Commercial use allowed", noncomm: "Non-commercial use", other: "Licence unknown" };
const SAID = {
  unknown_pair: "This figure is not in the index.",
  unsupported_format: "This file is not an image that can be read. JPEG, PNG, GIF, TIFF, WebP and BMP can.",
  undecodable: "This image is damaged and can't be read.",
  image_too_large: "This image is too large. Choose a smaller one.",
  body_too_large: "This image is too large. Choose a smaller one.",
  no_index: "This service has a model but no index to search. Start it with --index.",
};
const FILTERS = { license: "", from: "", to: "", target: "figure", k: "24" };

let shown = null; // {image: data URL} or {pair_id}, beside or instead of the text
let limits = null;
let current = null; // the search under way

function start() {
  at("examples").replaceChildren(...EXAMPLES.map(example));
  at("search").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  for (const name of Object.keys(FILTERS)) at(name).addEventListener("change", () => (at("q").value.trim() || shown) && ask());
  at("file").addEventListener("change", () => { useFile(at("file").files[0]); at("file").value = ""; });
  at("shown-image").addEventListener("error", () => { at("shown-image").hidden = true; });
  at("shown-clear").addEventListener("click", () => { show(null); at("q").focus(); if (at("q").value.trim()) ask(); });
  addEventListener("popstate", restore);
  addEventListener("paste", (event) => useFile(firstImage(event.clipboardData), event));
  listenForDrops();
  restore();
  describe();
}

function example(text) {
  const button = make("button", text);
  button.type = "button";
  button.addEventListener("click", () => { at("q").value = text; show(null); ask(); });
  return wrap("li", button);
}

// ---- images: chosen, dropped or pasted

function listenForDrops() {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const veil = (on) => { at("drop").hidden = !on; };
  addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; veil(true); } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); veil(depth > 0); });
  addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => { depth = 0; veil(false); useFile(firstImage(event.dataTransfer), event); });
}

function firstImage(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

async function useFile(file, event) {
  if (!file) return;
  event?.preventDefault();
  if (limits && file.size > limits.image_bytes) {
    complain(`This image is larger than ${Math.floor(limits.image_bytes / 1048576)} MB. Choose a smaller one.`);
    return;
  }
  const url = await dataUrl(file);
  show({ image: url, label: `Figures that resemble ${file.name || "the pasted image"}` });
  ask();
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

function show(what) {
  shown = what;
  at("shown").hidden = !what;
  if (!what) return;
  at("shown-text").textContent = what.label;
  at("shown-image").hidden = !what.image && !what.thumbnail;
  at("shown-image").src = what.image ?? what.thumbnail ?? "";
}

// ---- the address bar: text queries and "more like this" can be shared, images can't

function remember() {
  const params = new URLSearchParams();
  if (at("q").value.trim()) params.set("q", at("q").value.trim());
  if (shown?.pair_id) params.set("like", shown.pair_id);
  for (const [name, usual] of Object.entries(FILTERS)) if (at(name).value !== usual) params.set(name, at(name).value);
  const address = params.size ? `?${params}` : location.pathname;
  if (address !== (location.search || location.pathname)) history.pushState(null, "", address);
}

function restore() {
  const params = new URLSearchParams(location.search);
  at("q").value = params.get("q") ?? "";
  for (const [name, usual] of Object.entries(FILTERS)) {
    at(name).value = params.get(name) ?? usual;
    if (at(name).tagName === "SELECT" && at(name).selectedIndex < 0) at(name).value = usual;
  }
  const like = params.get("like");
  show(like ? likeThis(like) : null);
  if (at("q").value || like) ask();
  else clear();
}

function likeThis(pairId, label) {
  const path = pairId.split("/").map(encodeURIComponent).join("/");
  return { pair_id: pairId, label: `Figures like ${label ?? pairId}`, thumbnail: `v1/images/${path}?size=128` };
}

// ---- asking and showing

function question() {
  const filters = {};
  if (at("license").value) filters.license_group = [at("license").value];
  if (at("from").value) filters.year_min = Number(at("from").value);
  if (at("to").value) filters.year_max = Number(at("to").value);
  const body = { k: Number(at("k").value), target: at("target").value, filters };
  if (at("q").value.trim()) body.text = at("q").value.trim();
  if (shown?.image) body.image = shown.image;
  if (shown?.pair_id) body.pair_id = shown.pair_id;
  return body;
}

async function ask() {
  const body = question();
  if (!body.text && !body.image && !body.pair_id) { at("q").focus(); return; }
  remember();
  current?.abort();
  const search = (current = new AbortController());
  wait();
  try {
    const answer = await post("v1/search", body, search.signal);
    if (search === current) tell(answer);
  } catch (error) {
    if (error.name !== "AbortError" && search === current) complain(error.message, !error.final);
  }
}

async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service can't be reached. Is it still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw Object.assign(new Error(explain(response, answer)), { final: response.status < 500 });
}

function explain(response, answer) {
  if (response.status === 503) return "The service is busy. Try again in a moment.";
  const error = answer?.error;
  return SAID[error?.code] ?? (error?.message ? sentence(error.message) : `The service answered with status ${response.status}.`);
}

function clear() {
  document.body.classList.remove("asked");
  at("welcome").hidden = false;
  at("problem").hidden = true;
  at("status").textContent = "";
  at("hits").replaceChildren();
  document.title = "Figure search · biomedray";
}

function wait() {
  document.body.classList.add("asked");
  at("welcome").hidden = true;
  at("problem").hidden = true;
  at("status").textContent = "Searching…";
  at("hits").classList.add("waiting");
  at("hits").replaceChildren(...Array.from({ length: 8 }, () => { const card = make("div"); card.className = "hit"; return wrap("li", card); }));
}

function tell(answer) {
  const count = answer.hits.length;
  at("hits").classList.remove("waiting");
  at("hits").replaceChildren(...answer.hits.map(card));
  at("status").textContent = count
    ? `${plural(count, "figure")} of ${answer.total.toLocaleString("en")} that pass the filters · ${(answer.took_ms / 1000).toFixed(2)} s`
    : "No figure passes these filters. Widen the years or allow any licence.";
  document.title = `${at("q").value.trim() || "Figure search"} · biomedray`;
  for (const caption of document.querySelectorAll(".caption")) offerWhole(caption);
}

function complain(message, again = false) {
  document.body.classList.add("asked");
  at("welcome").hidden = true;
  at("hits").classList.remove("waiting");
  at("hits").replaceChildren();
  at("status").textContent = "";
  const problem = at("problem");
  problem.replaceChildren(document.createTextNode(message));
  if (again) {
    const button = make("button", "Try again");
    button.type = "button";
    button.addEventListener("click", ask);
    problem.append(button);
  }
  problem.hidden = false;
}

function card(hit) {
  const item = at("hit").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(`.${name}`);
  const label = hit.fig_label || "Figure";
  const image = item.querySelector("img");
  image.alt = `${label}: ${hit.caption.slice(0, 160)}`;
  image.addEventListener("error", () => part("plate").classList.add("lost"));
  image.src = hit.image.thumbnail;
  part("plate").href = hit.image.url;
  part("label").textContent = label;
  part("score").textContent = `similarity ${hit.score.toFixed(3)}`;
  part("caption").textContent = hit.caption;
  part("title").textContent = hit.article_title || hit.pmcid;
  part("source").textContent = [hit.journal, hit.year].filter(Boolean).join(", ");
  part("badge").textContent = hit.license || LICENSES[hit.license_group];
  part("badge").title = LICENSES[hit.license_group];
  part("badge").classList.add(hit.license_group);
  link(part("pmc"), hit.links.pmc, `Article ${hit.pmcid} at PubMed Central`);
  link(part("doi"), hit.links.doi, `DOI ${hit.doi}`);
  part("like").setAttribute("aria-label", `More like this: ${label}, ${hit.article_title || hit.pmcid}`);
  part("like").addEventListener("click", () => more(hit, label));
  return item;
}

function more(hit, label) {
  at("q").value = "";
  show(likeThis(hit.pair_id, `${label} of “${hit.article_title || hit.pmcid}”`));
  ask();
  scrollTo({ top: 0 });
  at("results").focus({ preventScroll: true });
}

function link(element, address, title) {
  if (!address?.startsWith("https://")) { element.remove(); return; }
  element.href = address;
  element.title = title;
}

function offerWhole(caption) {
  const button = caption.nextElementSibling;
  button.hidden = caption.scrollHeight <= caption.clientHeight + 2;
  button.addEventListener("click", () => {
    const open = caption.classList.toggle("open");
    button.textContent = open ? "Show less" : "Show whole caption";
    button.setAttribute("aria-expanded", String(open));
  });
}

async function describe() {
  try {
    const about = await (await fetch("v1/info")).json();
    limits = about.limits;
    if (!about.index) { complain(SAID.no_index); return; }
    const years = about.index.facets.years;
    at("holdings").textContent = `${plural(about.index.rows, "figure")}${years ? `, ${years[0]}–${years[1]}` : ""}`;
  } catch {
    at("holdings").textContent = "";
  }
}

// ---- small helpers

function make(tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function wrap(tag, child) {
  const element = document.createElement(tag);
  element.append(child);
  return element;
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

start();
