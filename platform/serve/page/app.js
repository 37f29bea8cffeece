// The page: starts its parts, and keeps them, the address bar and the history in step.

import { readAddress, writeAddress } from "./address.js";
import { get } from "./api.js";
import { at, button, plural, say } from "./dom.js";
import { setFacets, startFilters } from "./filters.js";
import { listenToArrows } from "./hits.js";
import { setMostPixels, startLarger } from "./larger.js";
import { listenForPictures, setImageBytes } from "./picture.js";
import { setMostProxies, startProxy } from "./proxy.js";
import { askAfter, clear, filtersChanged, restoreSearch, searchLike, searchPicture, searchState, setMostHits, startSearch } from "./search.js";
import { chooseTab, chosenTab, listenToTabs } from "./tabs.js";
import { classifyFile, restoreZeroShot, startZeroShot, zeroShotState } from "./zeroshot.js";

const TITLES = { search: "Figure search", "zero-shot": "Zero-shot", proxy: "Proxy search" };
const REMEMBERED = 8; // images of past queries that the back button finds again
const pictures = new Map(); // of the queries in this page's history, which no address carries
let restored = ""; // the search address whose hits are on the page

function start() {
  startFilters(filtersChanged);
  startLarger({ like: searchLike, classify });
  const pickers = { search: startSearch(step), "zero-shot": startZeroShot(step), proxy: startProxy() };
  listenToTabs(() => { step(true); entitle(); });
  listenToArrows();
  listenForPictures(() => pickers[chosenTab()]);
  addEventListener("keydown", focusQuery);
  addEventListener("popstate", restore);
  askAfter(describe());
  restore();
}

// ---- the address bar and the history

function state() {
  const tab = chosenTab();
  const usual = readAddress("");
  if (tab === "search") return { ...usual, tab, ...searchState() };
  return { ...usual, tab, ...(tab === "zero-shot" ? zeroShotState() : {}) };
}

/** Bring the address bar up to date, as a step that the back button undoes or in place. */
function step(asStep) {
  const shown = chosenTab() === "search" ? searchPicture() : null;
  let keep = null;
  if (shown?.image) {
    keep = { picture: [...pictures].find(([, picture]) => picture === shown)?.[0] ?? crypto.getRandomValues(new Uint32Array(1))[0] };
    pictures.set(keep.picture, shown);
    if (pictures.size > REMEMBERED) pictures.delete(pictures.keys().next().value);
  }
  writeAddress(state(), { step: asStep, keep });
  if (chosenTab() === "search") restored = mark();
}

const mark = () => `${location.search}#${history.state?.picture ?? ""}`;

function restore() {
  const wanted = readAddress();
  chooseTab(wanted.tab);
  if (wanted.tab === "zero-shot") restoreZeroShot(wanted);
  if (wanted.tab === "search" && restored !== mark()) {
    restored = mark();
    restoreSearch(wanted, pictures.get(history.state?.picture));
  }
  entitle();
}

function entitle() {
  const asked = chosenTab() === "search" ? at("q").value.trim() : "";
  document.title = `${asked || TITLES[chosenTab()]} · biomedray`;
}

// ---- keys, and ways from one part to another

function focusQuery(event) {
  const typing = event.target.closest?.("input:not([type=checkbox], [type=range]), textarea, select, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (chosenTab() !== "search") at("tab-search").click();
  at("q").focus();
  at("q").select();
}

/** Take a figure of the index to the zero-shot tab. */
async function classify(hit) {
  at("tab-zero-shot").click();
  at("tab-zero-shot").focus();
  const response = await fetch(hit.image.url).catch(() => null);
  if (!response?.ok) { say("The figure can't be fetched."); return; }
  const blob = await response.blob();
  await classifyFile(new File([blob], `${hit.fig_label || "Figure"} of ${hit.pmcid}`, { type: blob.type }));
}

// ---- what the service says of itself

async function describe() {
  try {
    const about = await get("v1/info");
    setImageBytes(about.limits.image_bytes);
    setMostHits(about.limits.k);
    setMostProxies(about.limits.k);
    setMostPixels(about.limits.thumbnail_pixels);
    if (about.index) holdings(about.index);
    else withoutIndex();
  } catch (error) {
    if (error.status === 401) alone(error.message, button("Reload", () => location.reload()));
  }
}

function holdings(index) {
  const { years } = index.facets;
  at("holdings").textContent = `${plural(index.rows, "figure")}${years ? `, ${years[0]}–${years[1]}` : ""}`;
  setFacets(index.facets);
}

function withoutIndex() {
  if (chosenTab() === "search") clear();
  document.body.classList.add("no-index");
  const go = button("Go to zero-shot", () => { at("tab-zero-shot").click(); at("tab-zero-shot").focus(); });
  alone("This service has a model but no index: there is nothing to search. Zero-shot works. Whoever runs it can add one with --index.", go);
}

function alone(text, way) {
  at("alone").replaceChildren(text, " ", way);
  at("alone").hidden = false;
}

start();
