// The tabs of the header, as WAI-ARIA describes them: arrows, Home and End move, only the chosen one is in the Tab order.

import { at } from "./dom.js";

const TABS = ["search", "zero-shot", "proxy"];

export const isTab = (name) => TABS.includes(name);

export function chosenTab() {
  return TABS.find((name) => at(`tab-${name}`).getAttribute("aria-selected") === "true");
}

export function chooseTab(chosen) {
  for (const name of TABS) {
    at(`tab-${name}`).setAttribute("aria-selected", String(name === chosen));
    at(`tab-${name}`).tabIndex = name === chosen ? 0 : -1;
    at(`${name}-panel`).hidden = name !== chosen;
  }
}

/** Watch the tabs; changed(name) is called when the reader chooses one. */
export function listenToTabs(changed) {
  const go = (name) => {
    if (name === chosenTab()) return;
    chooseTab(name);
    changed(name);
  };
  for (const [place, name] of TABS.entries()) {
    at(`tab-${name}`).addEventListener("click", () => go(name));
    at(`tab-${name}`).addEventListener("keydown", (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = TABS.at(to % TABS.length);
      at(`tab-${next}`).focus();
      go(next);
    });
  }
}
