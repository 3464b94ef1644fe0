// @ts-check
/** A bundle's gated graph, opened in ONNX Runtime Web and run at any depth. */

import { checked } from "./description.mjs";
import { suppress } from "./suppress.mjs";

/** @typedef {import("./description.mjs").Description} Description */
/** @typedef {import("./description.mjs").Detections} Detections */
/** @typedef {Record<string, {data: any, dims: readonly number[]}>} Outputs */

/**
 * @typedef {object} Progress
 * @property {"model" | "session"} part what is fetched, or put together
 * @property {number} loaded bytes so far
 * @property {number} total bytes in all; 0 where the server does not say
 */

/** The smallest module with an instruction of SIMD: `v128.const`, dropped. */
const SIMD = Uint8Array.of(
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // magic and version
  ...[1, 4, 1, 0x60, 0, 0], // a type: nothing to nothing
  ...[3, 2, 1, 0], // a function of it
  ...[10, 23, 1, 21, 0, 0xfd, 12, ...new Array(16).fill(0), 0x1a, 0x0b],
);

/** A network that is ready. */
export class Network {
  /**
   * @param {any} ort
   * @param {any} session
   * @param {Description} description
   * @param {number} threads
   */
  constructor(ort, session, description, threads) {
    this.ort = ort;
    this.session = session;
    this.description = description;
    /** Threads that compute. */
    this.threads = threads;
  }

  /** Values of an input. */
  get values() {
    const [height, width] = this.description.manifest.preprocess.size;
    return 3 * height * width;
  }

  /**
   * @param {Float32Array} input (3, height, width)
   * @param {number} row of the bundle's table of depths
   * @returns {Promise<Outputs>}
   */
  async run(input, row) {
    const { preprocess, depths } = this.description.manifest;
    // The graph does not check it: another number would run some depth or other.
    if (!Number.isInteger(row) || row < 0 || row >= depths.length) {
      throw new Error(`There is no depth ${row}: expected a row from 0 to ${depths.length - 1}.`);
    }
    const { Tensor } = this.ort;
    return this.session.run({
      images: new Tensor("float32", input, [1, 3, ...preprocess.size]),
      depth: new Tensor("int64", BigInt64Array.of(BigInt(row)), []),
    });
  }

  /**
   * @param {Outputs} outputs of one image
   * @returns {Detections} in pixels of the input
   */
  detections(outputs) {
    const { suppression, classes, max_detections: maximum } = this.description.manifest;
    if (suppression?.where === "host") {
      return suppress(outputs.raw_predictions.data, classes.length, suppression, maximum);
    }
    return {
      boxes: outputs.boxes.data,
      scores: outputs.scores.data,
      labels: Int32Array.from(outputs.labels.data, Number),
    };
  }
}

/**
 * Throws an `Error` with a sentence for people for whatever is missing.
 * @param {{base: string, runtime: string, threads: number}} where addresses of the folder with
 *   `page.json` and of the one with ONNX Runtime Web, both with a slash at the end
 * @param {(progress: Progress) => void} onProgress
 * @returns {Promise<Network>}
 */
export async function openNetwork({ base, runtime, threads }, onProgress) {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    throw new Error(
      "This browser has no WebAssembly with SIMD, which the network needs: use a newer one.",
    );
  }
  const described = await (await fetched(new URL("page.json", base))).text();
  const description = checked(parsed(described));
  const [ort, model] = await Promise.all([
    imported(new URL("ort.wasm.min.mjs", runtime)),
    download(new URL(description.model, base), (loaded, total) =>
      onProgress({ part: "model", loaded, total }),
    ),
  ]);
  // Memory that threads share is to be had only where no other site's code can look into it.
  const used = globalThis.crossOriginIsolated ? Math.max(1, Math.trunc(threads)) : 1;
  ort.env.wasm.numThreads = used;
  ort.env.wasm.wasmPaths = runtime;
  ort.env.logLevel = "error";
  onProgress({ part: "session", loaded: 0, total: model.byteLength });
  const session = await opened(ort, model);
  onProgress({ part: "session", loaded: model.byteLength, total: model.byteLength });
  return new Network(ort, session, description, used);
}

/**
 * @param {any} ort
 * @param {Uint8Array} model
 */
async function opened(ort, model) {
  try {
    return await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`The network cannot be opened in this browser: ${told(error)}`);
  }
}

/** @param {URL} address */
async function imported(address) {
  try {
    return await import(address.href);
  } catch (error) {
    throw new Error(`ONNX Runtime Web cannot be loaded from ${address.href}: ${told(error)}`);
  }
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`page.json cannot be read: ${told(error)}`);
  }
}

/**
 * @param {URL} address
 * @param {(loaded: number, total: number) => void} onBytes
 * @returns {Promise<Uint8Array>}
 */
async function download(address, onBytes) {
  const response = await fetched(address);
  // Of a file that is sent compressed, this is another number than comes out.
  const encoded = response.headers.get("Content-Encoding");
  const total = encoded ? 0 : Number(response.headers.get("Content-Length") ?? 0);
  /** @type {Uint8Array[]} */
  const parts = [];
  let loaded = 0;
  const reader = response.body?.getReader();
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    onBytes(loaded, total && Math.max(total, loaded));
  }
  const whole = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {URL} address */
async function fetched(address) {
  let response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw new Error(`${address.href} cannot be loaded: ${told(error)}`);
  }
  if (!response.ok) {
    throw new Error(`${address.href} cannot be loaded: the server says ${response.status}.`);
  }
  return response;
}

/** @param {unknown} error what is thrown anywhere: ONNX Runtime throws numbers, too */
function told(error) {
  return error instanceof Error ? error.message : String(error);
}
