// What went wrong, said where it happened, with a button for the next step.

import { at, button } from "./dom.js";

/** Show a Refusal (or a sentence) in an alert; ``next`` is what "Try again" does, or buttons to offer. */
export function showProblem(id, problem, next) {
  const offers = Array.isArray(next) ? next : offered(problem, next);
  at(id).replaceChildren(document.createTextNode(problem.message ?? problem), ...offers);
  at(id).hidden = false;
}

export function hideProblem(id) {
  at(id).hidden = true;
  at(id).replaceChildren();
}

function offered(problem, again) {
  if (problem.code === "no_index") return [button("Go to zero-shot", () => at("tab-zero-shot").click())];
  if (problem.help === "reload") return [button("Reload", () => location.reload())];
  if (problem.help === "again" && again) return [button("Try again", again)];
  return [];
}
