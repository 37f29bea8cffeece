// An image that the reader chooses, drops or pastes: its preview, and its base64 for a request. It is kept in this page only.

import { Refusal } from "./api.js";
import { at, button, make } from "./dom.js";

const KINDS = "image/jpeg,image/png,image/gif,image/webp,image/tiff,image/bmp,application/dicom,.dcm,.dicom,.tif,.tiff";
const SHRUNK = 2048; // pixels of the longest side of an image that was too large to send
const MIB = 1048576;

let imageBytes = 20 * MIB;
export const setImageBytes = (bytes) => { imageBytes = bytes; };

/** A place for one image: a file input, what is shown of the choice, and what is told of it. */
export class Picker {
  constructor(input, shown, { changed, failed }) {
    Object.assign(this, { input, shown, changed, failed, picture: null });
    input.accept = KINDS;
    input.addEventListener("change", () => { this.take(input.files[0]); input.value = ""; });
  }

  async take(file) {
    if (!file) return;
    try {
      this.show(await readPicture(file));
      this.changed(this.picture);
    } catch (error) {
      this.failed(error instanceof Refusal ? error : new Refusal("This file can't be read."));
    }
  }

  /** Show a picture, or a stand-in for one such as {pair_id, label, preview}; null takes it away. */
  show(picture) {
    this.picture = picture;
    this.shown.hidden = !picture;
    if (!picture) {
      this.shown.replaceChildren();
      return;
    }
    const image = make("img", { alt: "", src: picture.preview ?? "" });
    const blank = () => image.replaceWith(make("span", { className: "blank", ariaHidden: "true", textContent: picture.kind ?? "?" }));
    image.addEventListener("error", blank);
    const remove = button("Remove", () => { this.show(null); this.changed(null); this.input.focus(); });
    const text = make("p", {}, make("b", { textContent: picture.label }), make("span", { textContent: picture.note ?? "" }));
    this.shown.replaceChildren(image, text, remove);
    if (!picture.preview) blank();
  }
}

/** A whole picker inside an empty element: the zone that is clicked or dropped on, and the preview. */
export function buildPicker(place, { changed, failed }) {
  const input = make("input", { id: `${place.id}-file`, type: "file", className: "hidden" });
  const zone = make("label", { htmlFor: input.id, className: "zone" }, make("b", { textContent: "Choose an image" }));
  zone.append(make("span", { textContent: "or drop it here, or paste it. JPEG, PNG, WebP, GIF, TIFF, DICOM." }));
  const shown = make("div", { className: "shown", hidden: true });
  place.replaceChildren(input, zone, shown);
  return new Picker(input, shown, { changed, failed });
}

async function readPicture(file) {
  if (!file.size) throw new Refusal("This file is empty. Choose another one.");
  const dicom = await isDicom(file);
  const small = file.size > imageBytes ? await shrink(file) : file;
  const kind = dicom ? "DICOM" : (file.name?.split(".").pop() ?? "").slice(0, 5).toUpperCase();
  const shrunk = small === file ? "" : `, made smaller from ${size(file.size)}`;
  return {
    label: file.name || "Pasted image",
    note: dicom ? `${size(file.size)}, no preview. The whole file is sent; its header may name the patient.` : size(small.size) + shrunk,
    kind,
    preview: dicom ? null : URL.createObjectURL(small),
    image: await base64(small),
  };
}

/** DICOM files carry "DICM" after a preamble of 128 bytes (PS3.10, 7.1); browsers know no type for them. */
async function isDicom(file) {
  if (file.type === "application/dicom" || /\.(dcm|dicom)$/i.test(file.name ?? "")) return true;
  return (await file.slice(128, 132).text()) === "DICM";
}

async function shrink(file) {
  const tooLarge = new Refusal(`This image is larger than ${Math.floor(imageBytes / MIB)} MB. Choose a smaller one.`);
  const bitmap = await createImageBitmap(file).catch(() => { throw tooLarge; });
  const scale = Math.min(1, SHRUNK / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const smaller = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  if (!smaller || smaller.size > imageBytes) throw tooLarge;
  return smaller;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

function size(bytes) {
  return bytes < MIB ? `${Math.max(1, Math.round(bytes / 1024))} kB` : `${(bytes / MIB).toFixed(1)} MB`;
}

/** Give what is dropped anywhere on the page, or pasted, to the picker of the open tab. */
export function listenForPictures(picker) {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const veil = (on) => { at("drop").hidden = !on; };
  const take = (event, files) => {
    const file = [...(files ?? [])][0];
    if (!file) return;
    event.preventDefault();
    if (!document.querySelector("dialog[open]")) picker().take(file);
  };
  addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; veil(true); } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); veil(depth > 0); });
  addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => { depth = 0; veil(false); take(event, event.dataTransfer?.files); });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.types.includes("text/plain")) take(event, event.clipboardData?.files);
  });
}
