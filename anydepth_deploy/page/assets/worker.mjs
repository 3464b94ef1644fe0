// @ts-check
/**
 * The network in a thread of its own, so that the page never stalls: a picture goes in, detections
 * come out. Messages are answered one after the other, each with its number; see `detector.mjs`.
 */

import { inPicture, prepare } from "./prepare.mjs";
import { openNetwork } from "./network.mjs";

/** @typedef {import("./prepare.mjs").Geometry} Geometry */
/** @typedef {{input: Float32Array, geometry: Geometry}} Prepared */

/** @type {import("./network.mjs").Network | undefined} */
let network;

/** @type {Prepared | undefined} of the last picture: another depth need not prepare it again */
let kept;

/** @type {Record<string, (message: any) => Promise<object>>} */
const answers = {
  async open(message) {
    network = await openNetwork(message, (progress) => postMessage({ number: message.number, progress }));
    return { description: network.description, threads: network.threads };
  },

  async warm({ row }) {
    const begun = performance.now();
    await opened().run(new Float32Array(opened().values), row);
    return { milliseconds: performance.now() - begun };
  },

  async detect({ picture, row, threshold, maximum }) {
    const begun = performance.now();
    if (picture) {
      kept = undefined; // what fails must not leave the one before
      kept = prepare(picture, opened().description.manifest.preprocess);
    }
    if (!kept) throw new Error("No picture was given.");
    const prepared = performance.now();
    const found = await opened().run(kept.input, row);
    const computed = performance.now();
    const detections = inPicture(opened().detections(found), kept.geometry, threshold, maximum);
    const milliseconds = {
      preprocess: picture ? prepared - begun : 0,
      network: computed - prepared,
      postprocess: performance.now() - computed,
    };
    return { ...detections, milliseconds };
  },
};

function opened() {
  if (!network) throw new Error("The network is not open.");
  return network;
}

let last = Promise.resolve();

addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      postMessage({ number: data.number, result: await answers[data.kind](data) });
    } catch (error) {
      postMessage({ number: data.number, error: error instanceof Error ? error.message : String(error) });
    }
  });
});
