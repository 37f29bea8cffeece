// The zero-shot tab: an image, labels, a sentence around them; POST /v1/classify; bars with their values.

import { asCurl, asJson, post, Refusal } from "./api.js";
import { at, button, copy, make, score } from "./dom.js";
import { buildPicker } from "./picture.js";
import { hideProblem, showProblem } from "./problem.js";

const TEMPLATE = "this is a photo of {}";
const PRESETS = {
  "Kind of image": ["chest X-ray", "CT scan", "MRI scan", "ultrasound", "histology slide", "fluorescence microscopy", "gel or blot", "bar chart", "line graph", "flow chart"],
  "Part of the body": ["brain", "chest", "heart", "abdomen", "spine", "knee", "hand", "eye"],
  "Stain": ["haematoxylin and eosin", "immunohistochemistry", "fluorescence", "Giemsa"],
};

let picker = null;
let current = null;
let stepped = () => {};

export function startZeroShot(onStep) {
  stepped = onStep;
  picker = buildPicker(at("z-picker"), { changed: (picture) => (picture ? ask() : clear()), failed: (error) => showProblem("z-problem", error) });
  at("presets").replaceChildren(...Object.keys(PRESETS).map((name) => button(name, () => { at("labels").value = PRESETS[name].join("\n"); changed(); })));
  at("zero-shot").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  at("labels").addEventListener("change", () => stepped(false));
  at("template").addEventListener("change", () => stepped(false));
  restoreZeroShot({ label: [], template: "" });
  return picker;
}

const labels = () => [...new Set(at("labels").value.split("\n").map((line) => line.trim()).filter(Boolean))];

export function zeroShotState() {
  const template = at("template").value.trim();
  const usual = labels().join("\n") === Object.values(PRESETS)[0].join("\n");
  return { label: usual ? [] : labels(), template: template === TEMPLATE ? "" : template };
}

export function restoreZeroShot(state) {
  at("labels").value = (state.label.length ? state.label : Object.values(PRESETS)[0]).join("\n");
  at("template").value = state.template || TEMPLATE;
}

/** Classify a file that was found elsewhere on the page. */
export const classifyFile = (file) => picker.take(file);

function changed() {
  stepped(false);
  if (picker.picture) ask();
}

function body() {
  const template = at("template").value.trim() || TEMPLATE;
  if (!picker.picture) throw new Refusal("Choose an image first.");
  if (labels().length < 2) throw new Refusal("Give at least two labels, one per line.");
  if (!template.includes("{}")) throw new Refusal("The sentence needs {} where the label goes.");
  return { image: picker.picture.image, labels: labels(), templates: [template] };
}

async function ask() {
  clear();
  const question = (current = new AbortController());
  try {
    const asked = body();
    at("z-status").textContent = "Classifying…";
    const waits = (seconds) => { at("z-status").textContent = `The service is busy. Trying again in ${Math.ceil(seconds)} s…`; };
    const answer = await post("v1/classify", asked, { signal: question.signal, waits });
    if (question === current) tell(asked, answer);
  } catch (error) {
    if (error.name === "AbortError" || question !== current) return;
    if (!(error instanceof Refusal)) throw error;
    at("z-status").textContent = "";
    showProblem("z-problem", error, ask);
  }
}

function clear() {
  current?.abort();
  current = null;
  hideProblem("z-problem");
  at("z-status").textContent = "";
  at("z-tools").hidden = true;
  at("bars").replaceChildren();
}

function tell(asked, answer) {
  const best = answer.predictions[0];
  at("z-status").textContent = `Nearest: ${best.label}, ${percent(best.probability)}.`;
  at("bars").replaceChildren(...answer.predictions.map(bar));
  at("z-tools").hidden = false;
  at("z-tools").replaceChildren(
    make("span", { textContent: "Copy" }),
    button("curl", () => copy(asCurl("v1/classify", asked), "The question as curl")),
    button("JSON", () => copy(asJson(asked), "The question as JSON")),
    button("answer", () => copy(JSON.stringify(answer, null, 2), "The answer as JSON")),
  );
}

function bar({ label, probability, cosine }) {
  const fill = make("span", { className: "fill" });
  fill.style.width = `${100 * probability}%`;
  const value = make("span", { className: "value", textContent: percent(probability) });
  value.append(make("small", { textContent: `similarity ${score(cosine)}` }));
  return make("li", {}, make("span", { className: "name", textContent: label }), value, make("span", { className: "track", ariaHidden: "true" }, fill));
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.001 ? 2 : 1)} %`;
}
