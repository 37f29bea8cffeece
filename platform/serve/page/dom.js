// Small helpers of the page. Text is always set as text: captions come from articles and are not trusted.

export const at = (id) => document.getElementById(id);

/** An element with properties, and children that are elements or texts. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(text, act, className = "") {
  const element = make("button", { type: "button", textContent: text, className });
  element.addEventListener("click", act);
  return element;
}

export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** A similarity in three digits. */
export const score = (value) => value.toFixed(3).replace("-", "\u2212");

/** "research-article" as "Research article". */
export function spoken(value) {
  const text = value.replace(/[-_]+/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Point an anchor at an https address, or take it away: an address out of an article is not trusted either. */
export function link(element, address, title) {
  if (!address?.startsWith("https://")) {
    element.remove();
    return;
  }
  element.href = address;
  element.title = title;
  const text = element.textContent; // alone it would not say which of the page's links this is
  element.setAttribute("aria-label", title.startsWith(text) ? title : `${text}: ${title}`);
}

let fading = null;

/** Say something in passing, also to screen readers. */
export function say(text) {
  const toast = at("toast");
  const dialog = document.querySelector("dialog[open]");
  (dialog ?? document.body).append(toast); // what lies outside an open dialog is neither seen nor read out
  toast.textContent = text;
  toast.classList.add("up");
  clearTimeout(fading);
  fading = setTimeout(() => { toast.classList.remove("up"); toast.textContent = ""; }, 3500);
}

/** Copy a text, or what a promise of one brings. */
export async function copy(text, what) {
  say((await toClipboard(await text)) ? `${what} copied.` : "The browser did not allow copying.");
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text); // the clipboard API exists only on https and localhost
  }
}

function copyTheOldWay(text) {
  const focused = document.activeElement;
  const area = make("textarea", { value: text, className: "hidden" });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
