// The proxy tab: a private image in, public figures out; POST /v1/proxy. Nothing of it goes into the address or the history.

import { asCurl, post, Refusal } from "./api.js";
import { at, button, copy, make, score } from "./dom.js";
import { LICENSES } from "./filters.js";
import { badge, closer } from "./hits.js";
import { buildPicker } from "./picture.js";
import { hideProblem, showProblem } from "./problem.js";

let most = 50; // proxies that may be asked for
let picker = null;
let current = null;

export function startProxy() {
  picker = buildPicker(at("p-picker"), { changed: (picture) => (picture ? ask() : clear()), failed: (error) => showProblem("p-problem", error) });
  at("host").textContent = location.host;
  at("p-licenses").append(...Object.entries(LICENSES).map(([value, words]) => {
    const box = make("input", { type: "checkbox", id: `p-${value}`, value, checked: value !== "other" });
    return make("label", { htmlFor: box.id }, box, make("span", { textContent: words }));
  }));
  at("proxy").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  return picker;
}

export function setMostProxies(k) {
  most = Math.min(most, k);
  at("p-k").max = most;
  if (at("p-k").value > most) at("p-k").value = most;
}

function body() {
  const licenses = [...at("p-licenses").querySelectorAll("input:checked")].map((box) => box.value);
  if (!picker.picture) throw new Refusal("Choose an image first.");
  if (!licenses.length) throw new Refusal("Tick at least one licence.");
  const asked = { image: picker.picture.image, k: Math.min(Number(at("p-k").value) || 5, most) };
  if (at("p-min").value !== "") asked.min_score = Number(at("p-min").value);
  if (licenses.length < Object.keys(LICENSES).length) asked.filters = { license_group: licenses };
  return asked;
}

async function ask() {
  clear();
  const question = (current = new AbortController());
  try {
    const asked = body();
    at("p-status").textContent = "Looking for public figures…";
    const waits = (seconds) => { at("p-status").textContent = `The service is busy. Trying again in ${Math.ceil(seconds)} s…`; };
    const answer = await post("v1/proxy", asked, { signal: question.signal, waits });
    if (question === current) tell(asked, answer);
  } catch (error) {
    if (error.name === "AbortError" || question !== current) return;
    if (!(error instanceof Refusal)) throw error;
    at("p-status").textContent = "";
    showProblem("p-problem", error, ask);
  }
}

function clear() {
  current?.abort();
  current = null;
  hideProblem("p-problem");
  at("p-status").textContent = at("p-note").textContent = "";
  at("p-tools").hidden = true;
  at("proxies").replaceChildren();
}

function tell(asked, answer) {
  const count = answer.proxies.length;
  at("p-status").textContent = count ? `${count} public ${count === 1 ? "figure resembles" : "figures resemble"} your image.` : "No good proxy.";
  if (!count) {
    showProblem("p-problem", `${answer.note || "No public figure of this index is near enough to stand in for your image."} Allow more licences or a lower similarity, or go without.`, []);
    return;
  }
  at("p-note").textContent = answer.note ?? "";
  at("proxies").replaceChildren(...answer.proxies.map(proxy));
  at("p-tools").hidden = false;
  const lines = () => answer.proxies.map(idAndLicense).join("\n");
  at("p-tools").replaceChildren(
    make("span", { textContent: "Copy" }),
    button("all ids and licences", () => copy(lines(), "Ids and licences")),
    button("curl", () => copy(asCurl("v1/proxy", asked), "The question as curl")),
    button("answer", () => copy(JSON.stringify(answer, null, 2), "The answer as JSON")),
  );
}

const licenseOf = (found) => found.license || LICENSES[found.license_group] || "licence unknown";
const idAndLicense = (found) => `${found.pair_id}\t${licenseOf(found)}\t${found.citation ?? ""}`;

function proxy(found) {
  const name = (found.fig_label || "Figure").replace(/[.:\s]+$/, "");
  const image = make("img", { alt: `${name} of ${found.citation ?? found.pair_id}`, src: found.image.thumbnail, loading: "lazy" });
  const plate = make("a", { className: "plate", href: found.image.url, target: "_blank", rel: "noopener" }, image);
  plate.setAttribute("aria-label", `${image.alt}, in a new tab`);
  image.addEventListener("error", () => plate.classList.add("lost"));
  const mark = make("span", { className: "badge" });
  badge(mark, found);
  const links = make("p", { className: "links" }, mark);
  for (const [text, address] of [["PMC", found.links?.pmc], ["DOI", found.links?.doi]]) {
    if (address?.startsWith("https://")) links.append(make("a", { href: address, target: "_blank", rel: "noopener noreferrer", textContent: text }));
  }
  const about = make("div", {},
    make("p", { className: "over" }, make("span", { className: "label", textContent: name }), make("span", { className: "score", textContent: `similarity ${score(found.score)}` })),
    make("p", { className: "closer", textContent: closer(found), hidden: !closer(found) }),
    make("p", { className: "cited", textContent: found.citation ?? "" }),
    make("code", { textContent: found.pair_id }),
    links,
    make("p", { className: "acts" }, button("Copy id and licence", () => copy(idAndLicense(found), "Id and licence"))),
  );
  return make("li", {}, plate, about);
}
