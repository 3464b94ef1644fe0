// @ts-check
/** A bundle in the browser: pictures in, boxes out, at any of its depths. */

/** @typedef {import("./description.mjs").Description} Description */
/** @typedef {import("./description.mjs").Detections} Detections */
/** @typedef {import("./network.mjs").Progress} Progress */

/**
 * How long each part took. Preparing takes 0 where the picture is the one of the call before, which
 * is kept: another depth costs the network alone.
 * @typedef {{preprocess: number, network: number, postprocess: number}} Milliseconds
 */

/** @typedef {Detections & {milliseconds: Milliseconds}} Found */

/**
 * @typedef {object} Waiting
 * @property {(result: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(progress: Progress) => void} onProgress
 */

export class Detector {
  /** @type {Worker} */
  #worker;
  /** @type {Map<number, Waiting>} by the number of their message */
  #waiting = new Map();
  #number = 0;
  /** @type {WeakRef<ImageData> | undefined} the picture that the worker has */
  #last;
  /** @type {string | undefined} why there are no answers any more */
  #ended;

  /**
   * Open the network of a page.
   *
   * Rejects with an `Error` whose message is a sentence for people: where a file is missing, the
   * browser lacks what is needed, or the page describes something that it cannot run.
   * @param {string | URL} base the folder with `page.json` and the model
   * @param {object} options
   * @param {string | URL} options.runtime the folder with `ort.wasm.min.mjs` and
   *   `ort-wasm-simd-threaded.mjs` and `.wasm`
   * @param {number} [options.threads] that compute; more than one only where the server sends
   *   the headers that isolate the page
   * @param {(progress: Progress) => void} [options.onProgress]
   * @returns {Promise<Detector>}
   */
  static async open(base, { runtime, threads = 1, onProgress = () => {} }) {
    const detector = new Detector(new Worker(new URL("worker.mjs", import.meta.url), { type: "module" }));
    try {
      const where = { base: folder(base), runtime: folder(runtime), threads };
      const { description, threads: used } = await detector.#ask("open", where, onProgress);
      detector.description = description;
      detector.threads = used;
      return detector;
    } catch (error) {
      detector.close();
      throw error;
    }
  }

  /**
   * Use {@link Detector.open}.
   * @param {Worker} worker
   */
  constructor(worker) {
    /**
     * What `page.json` holds.
     * @type {Description}
     */
    this.description = /** @type {any} */ (undefined);
    /** Threads that compute. */
    this.threads = 1;
    this.#worker = worker;
    worker.addEventListener("message", ({ data }) => this.#answered(data));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#end(`The network has stopped: ${event.message || "its program cannot be loaded"}.`);
    });
  }

  /**
   * Run the network `calls` times at a depth, on nothing: the first calls are slow, until the
   * browser has compiled what takes most time. Pictures may be given meanwhile.
   * @param {number} row of the bundle's table of depths
   * @param {object} [options]
   * @param {number} [options.calls]
   * @param {(call: {index: number, calls: number, milliseconds: number}) => void} [options.onCall]
   * @returns {Promise<number[]>} milliseconds of each call
   */
  async warmUp(row, { calls = 30, onCall = () => {} } = {}) {
    const taken = [];
    for (let index = 0; index < calls; index++) {
      const { milliseconds } = await this.#ask("warm", { row });
      taken.push(milliseconds);
      onCall({ index, calls, milliseconds });
    }
    return taken;
  }

  /**
   * Detect objects at a depth, best first. Calls are answered in their order.
   *
   * Rejects with an `Error` whose message is a sentence for people.
   * @param {ImageData} pixels of the picture in its true size and the right way up; not to be
   *   changed afterwards, for it is taken as known when it is given again
   * @param {object} options
   * @param {number} options.row of the bundle's table of depths
   * @param {number} [options.threshold] least score
   * @param {number} [options.maximum] most detections; as many as the network gives by default
   * @returns {Promise<Found>} boxes in pixels of the picture
   */
  async detect(pixels, { row, threshold = 0.5, maximum = Infinity }) {
    const known = this.#last?.deref() === pixels;
    this.#last = new WeakRef(pixels);
    const { data, width, height } = pixels;
    const picture = known ? undefined : { data, width, height };
    try {
      return await this.#ask("detect", { picture, row, threshold, maximum });
    } catch (error) {
      if (this.#last?.deref() === pixels) this.#last = undefined;
      throw error;
    }
  }

  /** Give back what the network holds. Calls that wait for an answer are rejected. */
  close() {
    this.#end("The network was closed.");
    this.#worker.terminate();
  }

  /**
   * @param {string} kind
   * @param {object} content
   * @param {(progress: Progress) => void} [onProgress]
   * @returns {Promise<any>}
   */
  #ask(kind, content, onProgress = () => {}) {
    return new Promise((resolve, reject) => {
      if (this.#ended) {
        reject(new Error(this.#ended));
        return;
      }
      const number = this.#number++;
      this.#waiting.set(number, { resolve, reject, onProgress });
      this.#worker.postMessage({ ...content, kind, number });
    });
  }

  /** @param {any} message */
  #answered({ number, progress, result, error }) {
    const waiting = this.#waiting.get(number);
    if (!waiting) return;
    if (progress) {
      waiting.onProgress(progress);
      return;
    }
    this.#waiting.delete(number);
    if (error === undefined) waiting.resolve(result);
    else waiting.reject(new Error(error));
  }

  /** @param {string} reason */
  #end(reason) {
    this.#ended ??= reason;
    for (const { reject } of this.#waiting.values()) reject(new Error(reason));
    this.#waiting.clear();
  }
}

/**
 * With a slash at the end, or names would replace the folder's.
 * @param {string | URL} address
 */
function folder(address) {
  const { href } = new URL(address, document.baseURI);
  return href.endsWith("/") ? href : `${href}/`;
}
