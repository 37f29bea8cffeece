// The search tab: reads the form, asks POST /v1/search, shows the hits.

import { addressOf, asCurl, asJson, post } from "./api.js";
import { at, button, copy, make } from "./dom.js";
import { anyFilter, clearFilters, filterBody, filterState, setFilters } from "./filters.js";
import { card, counted, labelOf, articleOf, offerWholeCaptions, plates } from "./hits.js";
import { showLarger } from "./larger.js";
import { Picker } from "./picture.js";
import { hideProblem, showProblem } from "./problem.js";

const PAGE = 24; // hits that are asked for at a time
const EXAMPLES = [
  "chest radiograph with consolidation",
  "axial CT of the abdomen",
  "MRI of the brain, T2-weighted",
  "haematoxylin and eosin stained tissue",
  "Kaplan–Meier survival curve",
  "western blot",
  "flow chart of study selection",
];
const SCORES = `Similarity is the cosine between the query and a figure in the model's space: 1 is the same direction, 0 is
  unrelated. What is usual depends on the model, so where it was measured the page also says how many random pairs of this
  index (a query of its kind and a figure that it does not belong to) are less alike: closer than 99.2 % means that 992 of 1,000
  such pairs are. Neither is a probability, nor does it say that a finding is there.`;

let picker = null;
let most = 1000; // k that the service allows
let told = Promise.resolve(); // once the service has said what it allows, or can't
let wanted = PAGE;
let answered = null; // {body, answer} of the hits on the page
let current = null; // the question under way
let stepped = () => {}; // told when the address should change: (as a step of the history?)

export function startSearch(onStep) {
  stepped = onStep;
  picker = new Picker(at("q-file"), at("q-shown"), { changed: () => (anyQuestion() ? begin() : leave()), failed: fail });
  at("examples").replaceChildren(...EXAMPLES.map((text) => make("li", {}, button(text, () => { at("q").value = text; begin(); }))));
  at("search").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  for (const name of ["target", "mix", "minus"]) at(name).addEventListener("change", () => anyQuestion() && begin());
  at("more").addEventListener("click", more);
  at("q").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && plates().length) { event.preventDefault(); plates()[0].focus(); }
  });
  return picker;
}

export const setMostHits = (k) => { most = k; };
/** The first question waits for this: it would ask for more hits than some services allow. */
export const askAfter = (promise) => { told = promise; };
export const filtersChanged = () => (anyQuestion() ? begin() : stepped(true));

// ---- what the form says

const words = (id) => at(id).value.trim();
const anyQuestion = () => Boolean(words("q") || picker.picture); // what is only taken away asks for nothing

export function searchState() {
  const shown = picker.picture;
  return {
    q: words("q"),
    without: words("minus"),
    like: shown?.pair_id ?? "",
    target: at("target").value,
    mix: at("mix").value,
    n: String(Math.max(wanted, PAGE)),
    ...filterState(),
  };
}

/** The picture of the query, which the address can't carry; the history of this page keeps it. */
export const searchPicture = () => picker.picture;

export function restoreSearch(state, picture) {
  at("q").value = state.q;
  at("minus").value = state.without;
  at("target").value = state.target;
  at("mix").value = state.mix;
  wanted = Math.min(Math.max(Number(state.n), PAGE), most);
  setFilters(state);
  picker.show(picture ?? (state.like ? likeThis(state.like, state.like) : null));
  if (anyQuestion()) ask();
  else clear();
}

function body(k) {
  const shown = picker.picture;
  const asked = { k, target: at("target").value, filters: filterBody() };
  if (filterState().copies) asked.collapse_duplicates = false;
  if (words("q")) asked.text = words("q");
  if (words("minus")) asked.minus = words("minus");
  if (shown?.image) asked.image = shown.image;
  if (shown?.pair_id) asked.pair_id = shown.pair_id;
  if (shown && asked.text && at("mix").value !== "50") {
    const share = Number(at("mix").value) / 50;
    asked.weights = { text: share, [shown.image ? "image" : "pair_id"]: 2 - share };
  }
  return asked;
}

function likeThis(pairId, label) {
  const path = pairId.split("/").map(encodeURIComponent).join("/");
  const odd = pairId.split("/").some((part) => /^\.*$/.test(part)); // of a made-up address: it would lead elsewhere
  return { pair_id: pairId, label: "Figures like", note: label, kind: "FIG", preview: odd ? null : `v1/images/${path}?size=128` };
}

/** Search for figures like one of the hits. */
export function searchLike(hit) {
  at("q").value = "";
  at("minus").value = "";
  picker.show(likeThis(hit.pair_id, `${labelOf(hit)} of “${articleOf(hit)}”`));
  begin();
  scrollTo({ top: 0 });
  at("results").focus({ preventScroll: true });
}

// ---- asking

/** A new question: the first hits, and a step of the history. */
function begin() {
  if (!anyQuestion()) { at("q").focus(); return; }
  wanted = PAGE;
  stepped(true);
  ask();
}

function more() {
  wanted = Math.min(wanted + PAGE, most);
  stepped(false);
  ask(plates().length);
}

/** Ask; the first ``kept`` hits of the same question are on the page already and stay. */
async function ask(kept = 0) {
  current?.abort();
  const search = (current = new AbortController());
  wait(kept);
  const waits = (seconds) => { at("status").textContent = `The service is busy. Trying again in ${Math.ceil(seconds)} s…`; };
  try {
    await told;
    if (search !== current) return;
    wanted = Math.min(wanted, most);
    const question = body(wanted);
    const answer = await post("v1/search", question, { signal: search.signal, waits });
    if (search === current) tell(question, answer, kept);
  } catch (error) {
    if (error.name === "AbortError" || search !== current) return;
    if (!error.status && !error.help) throw error;
    fail(error, kept);
  }
}

// ---- showing

function wait(kept) {
  at("search-panel").classList.add("asked");
  at("mix-field").hidden = !(picker.picture && words("q"));
  at("welcome").hidden = true;
  at("status").textContent = "Searching…";
  hideProblem("problem");
  at("more").disabled = true;
  at("hits").setAttribute("aria-busy", "true");
  if (kept) return;
  at("more").hidden = at("tools").hidden = true;
  const blank = () => make("li", { className: "blank", ariaHidden: "true" }, make("div", { className: "hit" }));
  at("hits").replaceChildren(...Array.from({ length: 8 }, blank));
}

function tell(question, answer, kept) {
  answered = { question, answer };
  const before = new Set(kept ? [...at("hits").children].map((item) => item.hit.pair_id) : []);
  const cards = answer.hits.filter((hit) => !before.has(hit.pair_id)).map((hit) => card(hit, { larger: showLarger, like: searchLike }));
  if (kept) at("hits").append(...cards);
  else at("hits").replaceChildren(...cards);
  at("hits").removeAttribute("aria-busy");
  offerWholeCaptions(cards);
  const count = at("hits").children.length;
  at("status").textContent = count ? `${counted(count, answer.total, anyFilter())} · ${(answer.took_ms / 1000).toFixed(2)} s` : "";
  if (!count) nothingFound();
  at("tools").hidden = !count;
  if (count && !kept) drawTools();
  at("more").hidden = answer.hits.length < wanted || wanted >= most || !cards.length;
  at("more").disabled = false;
  document.title = `${words("q") || "Figure search"} · biomedray`;
  if (kept) cards[0]?.querySelector(".plate").focus();
}

function nothingFound() {
  const help = anyFilter() ? [button("Clear the filters", () => { clearFilters(); at("q").focus(); })] : [];
  showProblem("problem", anyFilter() ? "No figure passes these filters. Widen the years or take a filter away." : "No figure found.", help);
}

function fail(error, kept = 0) {
  at("search-panel").classList.add("asked");
  at("welcome").hidden = true;
  at("status").textContent = "";
  at("hits").removeAttribute("aria-busy");
  at("more").disabled = false;
  if (!kept) { at("hits").replaceChildren(); at("tools").hidden = at("more").hidden = true; }
  showProblem("problem", error, () => ask(kept));
}

function leave() {
  clear();
  stepped(true);
}

export function clear() {
  current?.abort();
  current = null; // an answer that is here already is not wanted either
  at("search-panel").classList.remove("asked");
  at("welcome").hidden = false;
  at("status").textContent = "";
  at("tools").hidden = at("more").hidden = at("mix-field").hidden = true;
  hideProblem("problem");
  at("hits").removeAttribute("aria-busy");
  at("hits").replaceChildren();
  document.title = "Figure search · biomedray";
}

function drawTools() {
  const { question } = answered;
  const address = () => (question.image ? copy(addressOf(location.search), "Link (without the image)") : copy(addressOf(location.search), "Link"));
  const scores = make("details", { className: "scores" }, make("summary", { textContent: "What the scores mean" }), make("p", { textContent: SCORES }));
  at("tools").replaceChildren(
    make("span", { textContent: "Copy" }),
    button("link", address),
    button("curl", () => copy(asCurl("v1/search", question), "The question as curl")),
    button("JSON", () => copy(asJson(question), "The question as JSON")),
    button("hits", () => copy(JSON.stringify(answered.answer, null, 2), "The hits as JSON")),
    scores,
  );
}
