// The filters of the search: boxes to tick with their counts, journals to type, years; and the chips of what is set.

import { at, button, make, spoken } from "./dom.js";

export const LICENSES = {
  comm: "Commercial use allowed",
  noncomm: "Non-commercial use only",
  other: "Other or unknown licence",
};
export const SPLITS = { train: "Training", val: "Validation", test: "Test" };
export const KINDS = { single: "Single picture", panels: "Several panels", chart: "Chart" };
const GROUPS = [
  // [name in the address, facet and filter of the service, heading, words for a value]
  ["license", "license_group", "Licence", (value) => LICENSES[value] ?? value],
  ["type", "article_type", "Article type", spoken],
  ["kind", "image_kind", "Image kind", (value) => KINDS[value] ?? spoken(value)],
  ["split", "split", "Split of the data", (value) => SPLITS[value] ?? value],
];
const EMPTY = { license: [], journal: [], type: [], kind: [], split: [], from: "", to: "", copies: "" };

let set = structuredClone(EMPTY);
let facets = { license_group: { comm: null, noncomm: null, other: null } };
let changed = () => {};

export function startFilters(onChange) {
  changed = onChange;
  at("filters-button").addEventListener("click", () => open(at("filters").hidden));
  at("filters").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); open(false); at("filters-button").focus(); }
  });
  draw();
}

export function setFacets(given) {
  facets = { ...facets, ...given };
  draw();
}

/** Take the filters of an address over. */
export function setFilters(state) {
  for (const name of Object.keys(EMPTY)) set[name] = structuredClone(state[name]);
  draw();
}

export const filterState = () => structuredClone(set);
export const anyFilter = () => Object.entries(set).some(([name, value]) => name !== "copies" && value.length);

/** The filters as POST /v1/search reads them; years as numbers. */
export function filterBody() {
  const body = {};
  for (const [name, field] of [...GROUPS, ["journal", "journal"]]) if (set[name].length) body[field] = [...set[name]];
  if (set.from) body.year_min = Number(set.from);
  if (set.to) body.year_max = Number(set.to);
  return body;
}

export function clearFilters() {
  update(structuredClone(EMPTY));
}

export function addJournal(name) {
  const known = Object.keys(facets.journal ?? {}).find((journal) => journal.toLowerCase() === name.trim().toLowerCase());
  const journal = known ?? name.trim();
  if (journal && !set.journal.includes(journal)) update({ journal: [...set.journal, journal] });
}

function update(values) {
  set = { ...set, ...values };
  draw();
  changed();
}

function open(on) {
  at("filters").hidden = !on;
  at("filters-button").setAttribute("aria-expanded", String(on));
}

// ---- drawing

function draw() {
  const focused = document.activeElement?.id;
  const groups = GROUPS.filter(([name, facet]) => set[name].length || Object.keys(facets[facet] ?? {}).length);
  at("filters").replaceChildren(make("div", {}, years(), copies()), journals(), ...groups.map(group));
  drawChips();
  if (focused && at("filters").contains(at(focused))) at(focused).focus();
}

function group([name, facet, heading, words]) {
  const values = [...new Set([...Object.keys(facets[facet] ?? {}), ...set[name]])];
  const boxes = make("div", { className: "boxes" }, ...values.map((value, number) => {
    const box = make("input", { type: "checkbox", id: `f-${name}-${number}`, checked: set[name].includes(value) });
    box.addEventListener("change", () => update({ [name]: box.checked ? [...set[name], value] : set[name].filter((one) => one !== value) }));
    const count = facets[facet]?.[value];
    const label = make("label", { htmlFor: box.id }, box, make("span", { textContent: words(value) }));
    if (count) label.append(make("small", { textContent: count.toLocaleString("en") }));
    return label;
  }));
  return make("fieldset", {}, make("legend", { textContent: heading }), boxes);
}

function years() {
  const [least, most] = facets.years ?? [];
  const year = (name, word, hint) => {
    const input = make("input", { id: `f-${name}`, type: "number", min: 1700, max: 2100, value: set[name], placeholder: hint ?? "year" });
    input.inputMode = "numeric";
    input.addEventListener("change", () => update({ [name]: /^\d{4}$/.test(input.value) ? input.value : "" }));
    return make("label", { htmlFor: input.id }, `${word} `, input);
  };
  const fields = make("div", { className: "years" }, year("from", "From", least), year("to", "To", most));
  return make("fieldset", {}, make("legend", { textContent: "Year" }), fields);
}

function copies() {
  const box = make("input", { type: "checkbox", id: "f-copies", checked: Boolean(set.copies) });
  box.addEventListener("change", () => update({ copies: box.checked ? "yes" : "" }));
  const label = make("label", { htmlFor: box.id }, box, make("span", { textContent: "Show them all" }));
  return make("fieldset", {}, make("legend", { textContent: "Near-identical figures" }), make("div", { className: "boxes" }, label));
}

function journals() {
  const input = make("input", { id: "f-journal", type: "text", placeholder: "type a name, then Enter", autocomplete: "off" });
  input.setAttribute("list", "journals");
  const list = make("datalist", { id: "journals" }, ...Object.keys(facets.journal ?? {}).map((value) => make("option", { value })));
  const known = (name) => !facets.journal || name in facets.journal;
  input.addEventListener("input", (event) => { if (event.inputType !== "insertText" && facets.journal && known(input.value)) addJournal(input.value); });
  input.addEventListener("change", () => { if (known(input.value)) addJournal(input.value); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); addJournal(input.value); }
  });
  return make("fieldset", {}, make("legend", { textContent: "Journal" }), make("label", { className: "hidden", htmlFor: input.id, textContent: "Journal" }), input, list);
}

function drawChips() {
  const chips = [];
  const chip = (text, without) => {
    const remove = button(text, () => { update(without); at("filters-button").focus(); }, "chip");
    remove.setAttribute("aria-label", `Remove the filter ${text}`);
    chips.push(make("li", {}, remove));
  };
  for (const [name, , , words] of [...GROUPS, ["journal", "", "", String]]) {
    for (const value of set[name]) chip(words(value), { [name]: set[name].filter((one) => one !== value) });
  }
  if (set.from) chip(`From ${set.from}`, { from: "" });
  if (set.copies) chip("With near-identical figures", { copies: "" });
  if (set.to) chip(`To ${set.to}`, { to: "" });
  at("filters-button").textContent = chips.length ? `Filters (${chips.length})` : "Filters";
  if (chips.length > 1) chips.push(make("li", {}, button("Clear all", () => { clearFilters(); at("filters-button").focus(); }, "clear")));
  at("chips").hidden = !chips.length;
  at("chips").replaceChildren(...chips);
}
