// Asking the service: JSON in and out, a pause and a second try when it is busy, and refusals as sentences with a next step.

import { sentence } from "./dom.js";

const TRIES = 3;
const LONGEST_PAUSE = 15; // seconds; beyond it the reader is asked instead

const SAID = {
  unknown_pair: "This figure is not in the index.",
  unsupported_format: "This file is not an image that can be read. JPEG, PNG, GIF, TIFF, WebP, BMP and DICOM can.",
  undecodable: "This image is damaged and can't be read. Save it anew as PNG and try that.",
  image_too_large: "This image is too large. Choose a smaller one.",
  body_too_large: "This image is too large. Choose a smaller one.",
  no_index: "This service has a model but no index to search. Start it with --index, or use the zero-shot tab.",
  timeout: "The service took too long. Try again, or with a smaller image.",
  unknown_route: "This service is of a version that can't do this yet.",
};
const BY_STATUS = {
  401: "This service wants a key. Reload the page and give the key as the password; the user name does not matter.",
  403: "This key may not do this.",
  413: "This image is too large. Choose a smaller one.",
  429: "Too many questions at a time. Try again in a moment.",
  502: "The service is not up. Try again in a moment.",
  503: "The service is busy. Try again in a moment.",
  504: "The service took too long. Try again.",
};

/** Why an answer was not given: a sentence, and what may help: "again", "reload" or nothing. */
export class Refusal extends Error {
  constructor(message, { help = "", status = 0, code = "" } = {}) {
    super(message);
    Object.assign(this, { help, status, code });
  }
}

/** A path of the service as an address; never with the name and password that the page's own address may carry. */
export const addressOf = (path) => new URL(path, location.origin + location.pathname).href;

export async function get(path) {
  return answerOf(await reach(path, {}));
}

/** POST a JSON body; waits(seconds) is told when the service is busy and is asked again by itself. */
export async function post(path, body, { signal, waits = () => {} } = {}) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal };
  for (let attempt = 1; ; attempt += 1) {
    const response = await reach(path, request);
    const pause = pauseOf(response);
    if (pause === null || attempt === TRIES) return answerOf(response);
    waits(pause);
    await sleep(pause, signal);
  }
}

async function reach(path, request) {
  try {
    return await fetch(addressOf(path), request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The service can't be reached. Is it still running?", { help: "again" });
  }
}

function pauseOf(response) {
  if (response.status !== 429 && response.status !== 503) return null;
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  return seconds >= 0 && seconds <= LONGEST_PAUSE ? Math.max(seconds, 0.2) * (1 + Math.random() / 4) : null;
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("given up", "AbortError")); });
  });
}

async function answerOf(response) {
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const { status } = response;
  const error = answer?.error ?? {};
  const help = status === 401 ? "reload" : status >= 500 || status === 429 ? "again" : "";
  throw new Refusal(SAID[error.code] ?? BY_STATUS[status] ?? plain(error, status), { help, status, code: error.code ?? "" });
}

function plain(error, status) {
  const text = typeof error.message === "string" ? error.message : `the service answered with status ${status}`;
  return sentence(text.replace(/^image: /, ""));
}

let keys = null; // whether the service wants a key

async function wantsKey() {
  keys ??= fetch(addressOf("v1/models"), { credentials: "omit" }).then((response) => response.status === 401, () => false);
  return keys;
}

/** The same question for a terminal; an image is read from a file there, as its bytes are not for a clipboard. */
export async function asCurl(path, body) {
  const key = (await wantsKey()) ? ' -H "Authorization: Bearer $KEY"' : "";
  const post = `curl -sS ${quoted(addressOf(path))} -H 'content-type: application/json'${key}`;
  if (!body.image) return `${post} -d ${quoted(JSON.stringify(body))}`;
  const text = JSON.stringify({ ...body, image: "@" }).replaceAll("%", "%%").replaceAll("\\", "\\\\").replace('"image":"@"', '"image":"%s"');
  return `printf ${quoted(text)} "$(base64 < IMAGE | tr -d '\\n')" | ${post} --data-binary @-`;
}

export function asJson(body) {
  return JSON.stringify(body.image ? { ...body, image: "<base64 of the image>" } : body, null, 2);
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
