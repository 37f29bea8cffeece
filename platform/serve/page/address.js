// What the address bar says: everything that may be shared (words, filters, tab, more-like-this), never an image.

import { KINDS, LICENSES, SPLITS } from "./filters.js";
import { isTab } from "./tabs.js";

const ONE = { tab: "search", q: "", without: "", like: "", target: "figure", from: "", to: "", copies: "", n: "24", mix: "50", template: "" };
const MANY = ["license", "journal", "type", "kind", "split", "label"];
const LONG = ["label", "without", "q"]; // what makes an address too long, and is then left out of it
const MOST = 6000; // characters; the service refuses requests of 8,192 bytes

/** The state that an address's query string stands for; what it can't mean is left at its usual value. */
export function readAddress(search = location.search) {
  const params = new URLSearchParams(search);
  const state = {};
  for (const [name, usual] of Object.entries(ONE)) state[name] = params.get(name) ?? usual;
  for (const name of MANY) state[name] = [...new Set(params.getAll(name).filter(Boolean))];
  for (const [name, known] of [["license", LICENSES], ["kind", KINDS], ["split", SPLITS]]) {
    state[name] = state[name].filter((value) => Object.hasOwn(known, value));
  }
  if (!isTab(state.tab)) state.tab = ONE.tab;
  if (!["figure", "caption"].includes(state.target)) state.target = ONE.target;
  for (const name of ["from", "to"]) if (!/^\d{4}$/.test(state[name])) state[name] = "";
  if (!/^\d{1,4}$/.test(state.n)) state.n = ONE.n;
  if (!/^(\d{1,2}|100)$/.test(state.mix)) state.mix = ONE.mix;
  return state;
}

export function addressOf(state) {
  const params = new URLSearchParams();
  for (const [name, usual] of Object.entries(ONE)) if (state[name] && state[name] !== usual) params.set(name, state[name]);
  for (const name of MANY) for (const value of state[name]) params.append(name, value);
  for (const name of LONG) if (String(params).length > MOST) params.delete(name);
  return params.size ? `?${params}` : location.pathname;
}

/** Put the state into the address bar, as a step of the history or in place of the present one; keep = {picture} or null. */
export function writeAddress(state, { step = true, keep = null } = {}) {
  const address = addressOf(state);
  const same = address === (location.search || location.pathname) && keep?.picture === history.state?.picture;
  if (step && !same) history.pushState(keep, "", address);
  else history.replaceState(keep, "", address);
}
