// @ts-check
/** Where pictures come from: files chosen, dropped and pasted, addresses, samples. */

import { byId, element } from "./dom.mjs";

/** Inputs that letters are typed into: others, like sliders, do nothing with what is pasted. */
const TYPED = ["url", "number", "text"];

/**
 * Call `onPicture` with a picture's file or address, and what to call it, whenever one is given;
 * `onFailure` where what is given is none.
 * @param {object} calls
 * @param {(source: Blob | string, name: string) => void} calls.onPicture
 * @param {(message: string) => void} calls.onFailure
 */
export function listen({ onPicture, onFailure }) {
  const file = byId("file");
  file.addEventListener("change", () => {
    if (file.files.length) onPicture(file.files[0], file.files[0].name);
    file.value = ""; // the same one may be chosen again
  });
  byId("address-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const address = byId("address").value.trim();
    if (address) onPicture(address, address);
  });
  const stage = byId("stage");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    given(event.dataTransfer, "What was dropped is no picture: drop a picture's file.");
  });
  document.addEventListener("paste", (event) => {
    // A text field takes its text itself.
    const field = event.target instanceof HTMLInputElement && TYPED.includes(event.target.type);
    const typing = field && !event.clipboardData?.files.length;
    if (!typing) given(event.clipboardData, "What was pasted is neither a picture nor its address.");
  });

  /**
   * @param {DataTransfer | null} transfer
   * @param {string} refusal
   */
  function given(transfer, refusal) {
    const found = transfer?.files[0];
    const text = (transfer?.getData("text/uri-list") || transfer?.getData("text") || "").trim();
    if (found) onPicture(found, found.name || "pasted picture");
    else if (/^https?:\/\/\S+$/.test(text)) onPicture(text, text);
    else onFailure(refusal);
  }
}

/**
 * Buttons for the pictures that came with the page.
 * @param {{file: string, name: string}[]} samples
 * @param {(address: string, name: string) => void} onPicture
 */
export function showSamples(samples, onPicture) {
  const group = byId("samples");
  group.replaceChildren();
  for (const { file, name } of samples) {
    const image = element("img", { src: file, alt: "", loading: "lazy" });
    const button = element("button", { type: "button", "aria-label": name, title: name }, image);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => onPicture(file, name));
    group.append(button);
  }
}

/** @param {string} name of the picture that is shown now */
export function markSample(name) {
  for (const button of byId("samples").children) {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-label") === name));
  }
}
