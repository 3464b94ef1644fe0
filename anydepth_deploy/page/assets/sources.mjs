// @ts-check
/** Where pictures come from: files chosen, dropped and pasted, addresses, samples, the camera. */

import { byId, element } from "./dom.mjs";

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
    const typing = event.target instanceof HTMLInputElement && !event.clipboardData?.files.length;
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

/**
 * Open the camera into `video`; what ends it. Rejects with an `Error` whose message is a sentence.
 * @param {HTMLVideoElement} video
 * @returns {Promise<() => void>}
 */
export async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This page may not use the camera: it must come from https or from this machine.");
  }
  let stream;
  try {
    const wanted = { facingMode: "environment", width: { ideal: 1280 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    if (name === "NotAllowedError") throw new Error("The camera was not allowed: the browser can be asked again beside the address.");
    if (name === "NotFoundError") throw new Error("There is no camera here.");
    throw new Error("The camera cannot be opened: another program may be using it.");
  }
  const end = () => {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  };
  video.srcObject = stream;
  try {
    await video.play();
  } catch {
    end();
    throw new Error("The camera gives no pictures.");
  }
  return end;
}
