// The larger view of one hit: a dialog with the whole caption, the facts, links, and steps to its neighbours.

import { addJournal, LICENSES } from "./filters.js";
import { at, button, copy, make, score, spoken } from "./dom.js";
import { articleOf, badge, citationOf, closer, labelOf, linkArticle, plates } from "./hits.js";

const SIZE = 1024; // pixels; a JPEG, as browsers can't show every article's TIFF

let size = SIZE;
let ways = {};
let shown = null; // the list item whose hit is shown

export const setMostPixels = (most) => { size = Math.min(SIZE, most); };

/** like(hit) and classify(hit) are called when the reader goes on from here. */
export function startLarger(given) {
  ways = given;
  const dialog = at("larger");
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => shown?.querySelector(".plate")?.focus());
}

export function showLarger(item) {
  draw(item);
  at("larger").showModal();
  at("larger").querySelector(".close").focus();
}

function step(by) {
  const items = plates().map((plate) => plate.closest("li"));
  const next = items[items.indexOf(shown) + by];
  if (!next) return;
  const focused = document.activeElement?.className;
  draw(next);
  const same = focused && at("larger").querySelector(`button.${focused.split(" ")[0]}:enabled`);
  (same || at("larger").querySelector(".close")).focus();
}

function draw(item) {
  shown = item;
  const { hit } = item;
  const view = at("view").content.cloneNode(true);
  const part = (name) => view.querySelector(`.${name}`);
  drawFigure(part("frame"), hit);
  drawSteps(part);
  view.querySelector("h2").textContent = labelOf(hit);
  part("caption").textContent = hit.caption;
  view.querySelector("dl").append(...facts(hit));
  badge(part("badge"), hit);
  linkArticle(part, hit);
  part("file").href = hit.image.url;
  part("cite").addEventListener("click", () => copy(citationOf(hit), "Citation"));
  part("id").addEventListener("click", () => copy(hit.pair_id, "Figure id"));
  part("like").addEventListener("click", () => leave(() => ways.like(hit)));
  part("name").addEventListener("click", () => leave(() => ways.classify(hit)));
  at("larger").replaceChildren(view);
  at("larger").scrollTop = 0;
}

function drawFigure(frame, hit) {
  const image = frame.querySelector("img");
  image.alt = labelOf(hit);
  if (hit.image.width) {
    Object.assign(image, { width: hit.image.width, height: hit.image.height });
    image.style.maxWidth = `${2 * hit.image.width}px`; // a small figure is not blown up beyond reason
  }
  image.addEventListener("error", () => frame.classList.add("lost"));
  image.src = `${hit.image.url}?size=${size}`;
  frame.firstElementChild.href = hit.image.url;
  frame.firstElementChild.setAttribute("aria-label", `${labelOf(hit)}: the original file, in a new tab`);
}

function drawSteps(part) {
  const all = plates();
  const place = all.indexOf(shown.querySelector(".plate"));
  part("place").textContent = `${place + 1} of ${all.length}`;
  part("before").disabled = place <= 0;
  part("after").disabled = place >= all.length - 1;
  part("before").addEventListener("click", () => step(-1));
  part("after").addEventListener("click", () => step(1));
  part("close").addEventListener("click", () => at("larger").close());
}

function facts(hit) {
  const journal = make("span", { textContent: hit.journal ?? "" });
  const only = hit.journal ? [journal, " ", button("Only this journal", () => leave(() => addJournal(hit.journal)), "textual")] : [];
  const rows = [
    ["Article", [articleOf(hit)]],
    ["Journal", only],
    ["Year", [hit.year]],
    ["Type", [hit.article_type && spoken(hit.article_type)]],
    ["Licence", [LICENSES[hit.license_group]]],
    ["Similarity", [`${score(hit.score)}${closer(hit) ? `. ${closer(hit)}.` : ""}`]],
    ["Size", [hit.image.width && `${hit.image.width} × ${hit.image.height} pixels`]],
    ["Figure id", [hit.pair_id]],
  ];
  return rows.filter(([, values]) => values.some(Boolean)).map(([name, values]) => {
    const entry = make("div", {}, make("dt", { textContent: name }));
    entry.append(make("dd", {}, ...values.map((value) => (value instanceof Node ? value : String(value)))));
    return entry;
  });
}

function leave(act) {
  shown = null; // the act says where the focus goes
  at("larger").close();
  act();
}
