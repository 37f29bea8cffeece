// The hits as figures, how one walks them with the arrow keys, and what both a card and the larger view say of a hit.

import { LICENSES } from "./filters.js";
import { at, copy, link, plural, score } from "./dom.js";

const ALT = 160; // characters of a caption in the text that stands for its image

export const labelOf = (hit) => [(hit.fig_label || "Figure").replace(/[.:\s]+$/, ""), hit.panel_label].filter(Boolean).join(", panel ");
export const articleOf = (hit) => hit.article_title || hit.pmcid;
export const sourceOf = (hit) => [hit.journal, hit.year].filter(Boolean).join(", ");

/** One plain line to cite by; the service's own where it gives one. Pairs know no authors. */
export function citationOf(hit) {
  if (hit.citation) return hit.citation;
  const parts = [articleOf(hit), hit.journal, hit.year].filter(Boolean).map((part) => String(part).replace(/\.$/, ""));
  return `${parts.join(". ")}. ${hit.links?.doi ?? hit.links?.pmc ?? hit.pmcid}`;
}

/** "Closer than 99.2 % of random pairs", or nothing where the index has no such measure. */
export function closer(hit) {
  if (typeof hit.percentile !== "number") return "";
  const digits = hit.percentile >= 99.9 ? 100 : 10; // rounded down, so that nothing is closer than all
  const share = Math.min(Math.floor(hit.percentile * digits) / digits, 99.99);
  return `Closer than ${share.toFixed(digits === 100 ? 2 : 1)} % of random pairs`;
}

export function badge(element, hit) {
  element.textContent = hit.license || (hit.license_group === "other" ? "Licence unknown" : LICENSES[hit.license_group]);
  element.title = LICENSES[hit.license_group] ?? "";
  element.classList.add(hit.license_group);
}

export function linkArticle(part, hit) {
  link(part("pmc"), hit.links?.pmc, `Article ${hit.pmcid} at PubMed Central`);
  link(part("doi"), hit.links?.doi, `DOI ${hit.doi}`);
}

/** A hit as a list item; larger(item) and like(hit) are called for its two ways on. */
export function card(hit, { larger, like }) {
  const item = at("hit").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(`.${name}`);
  const label = labelOf(hit);
  drawPlate(part("plate"), hit, label);
  part("plate").addEventListener("click", () => larger(item));
  part("label").textContent = label;
  part("score").textContent = `similarity ${score(hit.score)}`;
  part("closer").textContent = closer(hit);
  part("closer").hidden = !closer(hit);
  part("caption").textContent = hit.caption;
  part("title").textContent = articleOf(hit);
  part("source").textContent = sourceOf(hit);
  badge(part("badge"), hit);
  linkArticle(part, hit);
  part("cite").setAttribute("aria-label", `Cite ${label}, ${articleOf(hit)}`);
  part("cite").addEventListener("click", () => copy(citationOf(hit), "Citation"));
  part("like").setAttribute("aria-label", `More like this: ${label}, ${articleOf(hit)}`);
  part("like").addEventListener("click", () => like(hit));
  item.firstElementChild.setAttribute("aria-label", `${label}, ${articleOf(hit)}`); // else its name is all that it holds
  item.hit = hit;
  return item;
}

function drawPlate(plate, hit, label) {
  const image = plate.firstElementChild;
  image.alt = `${label}: ${hit.caption.slice(0, ALT)}`;
  image.addEventListener("error", () => { plate.classList.add("lost"); });
  image.src = hit.image.thumbnail;
  plate.setAttribute("aria-label", `Larger view. ${image.alt}`);
}

/** Offer the rest of captions that don't fit; only a laid-out page can tell which. */
export function offerWholeCaptions(items) {
  for (const item of items) {
    const caption = item.querySelector(".caption");
    const more = item.querySelector(".expand");
    more.hidden = caption.scrollHeight <= caption.clientHeight + 2;
    more.addEventListener("click", () => {
      const open = caption.classList.toggle("open");
      more.textContent = open ? "Show less" : "Show whole caption";
      more.setAttribute("aria-expanded", String(open));
    });
  }
}

export const plates = () => [...at("hits").querySelectorAll(".plate")];

/** Arrow keys, Home and End go from figure to figure; down and up by one row of the grid. */
export function listenToArrows() {
  at("hits").addEventListener("keydown", (event) => {
    const all = plates();
    const place = all.indexOf(document.activeElement);
    if (place < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = all.filter((plate) => Math.abs(top(plate) - top(all[0])) < 2).length;
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place + row, ArrowUp: place - row, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0 && event.key === "ArrowUp") at("q").focus();
    else all[to]?.focus();
  });
}

const top = (element) => element.getBoundingClientRect().top;

/** "24 figures of 1,894 that pass the filters". */
export function counted(shown, total, filtered) {
  return `${plural(shown, "figure")} of ${total.toLocaleString("en")}${filtered ? " that pass the filters" : ""}`;
}
