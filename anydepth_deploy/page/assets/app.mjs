// @ts-check
/** The page: a network, a picture, a depth, and what comes of them. */

import { DepthControls } from "./controls.mjs";
import { Depths } from "./depths.mjs";
import { Detector } from "./detector.mjs";
import { byId } from "./dom.mjs";
import { Frames, Rate } from "./frames.mjs";
import { merged } from "./merged.mjs";
import { Pictures } from "./pictures.mjs";
import { Shown } from "./shown.mjs";
import { readSite } from "./site.mjs";
import { listen, markSample, showSamples } from "./sources.mjs";
import { warmUp } from "./warm.mjs";
import * as view from "./view.mjs";

/** @typedef {import("./detector.mjs").Found} Found */
/** @typedef {import("./pictures.mjs").Picture} Picture */

/**
 * A network that is open, and what belongs to it.
 * @typedef {{detector: Detector, depths: Depths, controls: DepthControls, shown: Shown}} Network
 */

/** Frames whose rate is told. */
const FRAMES = 30;

class App {
  /** @type {Network | undefined} */
  network;
  /** @type {Rate | undefined} that is to be held */
  rate;
  /** @type {Frames | undefined} while pictures move */
  frames;
  /** @type {{picture: Picture, threshold: number} | undefined} what is being compared */
  compared;
  /** Counts networks: what comes late for an earlier one is not shown. */
  opened = 0;

  /** @param {import("./site.mjs").Site} site */
  constructor(site) {
    this.site = site;
    this.threshold = Number(byId("threshold").value);
    this.detect = merged(() => this.#detect());
    this.compare = merged(() => this.#compare());
    this.pictures = new Pictures(byId("video"), {
      onPicture: (name) => {
        if (this.network) view.clearFailure();
        markSample(name);
        return this.update();
      },
      onCamera: (on) => {
        view.showCamera(on);
        if (!on) this.update();
      },
      onFailure: view.fail,
    });
    listen({
      onPicture: (source, name) => this.pictures.load(source, name),
      onFailure: view.fail,
    });
    showSamples(site.samples, (address, name) => this.pictures.load(address, name));
    byId("camera").addEventListener("click", () => {
      if (this.pictures.camera) this.pictures.endCamera();
      else this.pictures.beginCamera();
    });
    byId("compare").addEventListener("click", () => this.compare());
    byId("hold").addEventListener("change", () => this.hold());
    byId("rate").addEventListener("change", () => this.hold());
    byId("threshold").addEventListener("input", () => this.setThreshold());
    view.showThreshold(this.threshold);
    window.addEventListener("resize", () => this.redraw());
    const model = view.showModels(site.models, (folder) => this.open(folder));
    this.open(model);
  }

  // --- the network

  /** @param {string} folder */
  async open(folder) {
    const opened = ++this.opened;
    this.letGo();
    this.rest();
    this.network?.detector.close();
    this.network = undefined;
    view.startOpening();
    /** @type {Network} */
    let network;
    try {
      const detector = await Detector.open(new URL(folder, document.baseURI), {
        runtime: new URL(this.site.runtime, document.baseURI),
        threads: wantedThreads(),
        onProgress: (progress) => {
          if (opened === this.opened) view.showOpening(progress);
        },
      });
      if (opened !== this.opened) {
        detector.close();
        return;
      }
      network = this.#networkOf(detector);
    } catch (error) {
      if (opened !== this.opened) return;
      view.failOpening(error);
      this.pictures.endCamera(); // whose pictures nobody looks at
      return;
    }
    this.network = network;
    view.endOpening(network.detector.description, network.detector.threads);
    const [sample] = this.site.samples;
    // What a person gives comes first, though it may still be decoded.
    if (sample && !this.pictures.wanted) await this.pictures.load(sample.file, sample.name);
    else await this.update();
    await this.warm(network);
  }

  /**
   * @param {Detector} detector closed where its page has no depths that can be shown
   * @returns {Network}
   */
  #networkOf(detector) {
    try {
      const depths = new Depths(detector.description);
      const controls = new DepthControls(depths, () => this.chosen());
      const shown = new Shown(depths, detector.description.manifest.classes);
      return { detector, depths, controls, shown };
    } catch (error) {
      detector.close();
      throw error;
    }
  }

  /** @param {Network} network */
  async warm(network) {
    const { detector, depths, shown } = network;
    const isOpen = () => this.network === network;
    try {
      const isWarm = await warmUp(detector, depths, {
        onProgress: (text, part) => {
          if (isOpen()) view.showWarming(text, part);
        },
        onMeasured: (row, milliseconds) => {
          shown.measures.add(row, milliseconds);
          this.drawCurve();
        },
        mayCall: async () => {
          while (isOpen() && this.frames) {
            view.pauseWarming();
            await this.frames.over;
          }
          return isOpen();
        },
      });
      if (!isWarm || !isOpen()) return;
    } catch (error) {
      if (isOpen()) view.fail(error);
      return;
    }
    shown.warm = true;
    view.endWarming(detector.threads);
    await this.update();
  }

  // --- one picture after the other

  /** Whether pictures move, or the same one is computed over and over. */
  get live() {
    return this.pictures.moving || Boolean(this.rate && this.pictures.now);
  }

  /** Compute anew what is shown: once, or frame after frame where pictures move. */
  async update() {
    if (!this.network) return;
    if (!this.live) {
      this.rest();
      await this.detect();
      await this.compare();
    } else if (this.frames) this.frames.hurry();
    else this.move(this.network);
  }

  /** @param {Network} network */
  move(network) {
    const frames = new Frames();
    this.frames = frames;
    /** @type {number[]} when frames were shown */
    let times = [];
    /** @type {Rate | undefined} */
    let before;
    frames.start({
      rate: () => this.rate,
      frame: async (rate) => {
        const compares = this.compared;
        await this.frame(frames, network, rate);
        if (frames.ended) return false;
        if (rate !== before) times = []; // they would tell of both
        before = rate;
        times = [...times, performance.now()].slice(-FRAMES);
        view.showRate(times, this.rate?.pilot);
        return !compares && !this.compared;
      },
      onFailure: (error) => {
        this.frames = undefined;
        this.letGo();
        this.pictures.endCamera();
        view.fail(error);
      },
    });
  }

  /** Pictures move no more. */
  rest() {
    this.frames?.end();
    this.frames = undefined;
  }

  /**
   * @param {Frames} frames
   * @param {Network} network
   * @param {Rate | undefined} rate
   */
  async frame(frames, { detector, depths, controls, shown }, rate) {
    await this.pictures.look(() => !frames.ended);
    const { threshold } = this;
    const picture = this.pictures.now;
    if (frames.ended || !picture) return;
    if (rate && rate === this.rate) controls.show(depths.ladder[rate.choose()]);
    const { row } = controls;
    const found = await detector.detect(picture.pixels, { row: row.row, threshold });
    if (frames.ended || picture !== this.pictures.now) return;
    shown.show({ picture, threshold, row, found }, true);
    this.drawCurve();
    this.tidy();
    const latest = this.compared ?? shown.both;
    const isLatest = latest?.picture.source === picture.source && latest?.threshold === threshold;
    if (!isLatest) this.compare();
  }

  /** Only pictures that may be drawn again are kept. */
  tidy() {
    const shown = this.network?.shown;
    this.pictures.keep(this.compared?.picture, shown?.one?.picture, shown?.both?.picture);
  }

  /** A person switches the rate on or off, or changes it. */
  hold() {
    const rate = Number(byId("rate").value);
    if (byId("hold").checked && !(rate > 0 && Number.isFinite(rate))) {
      view.fail("The frame rate must be a number above 0.");
      byId("hold").checked = false;
    } else if (byId("hold").checked) view.clearFailure();
    const before = this.rate;
    this.rate = undefined;
    view.showRate([], undefined);
    if (byId("hold").checked && this.network) {
      this.rate = new Rate(this.network.depths.ladder.map((rung) => rung.macs), rate);
    }
    if (before || this.rate) this.update();
  }

  /** The depth is a person's again. */
  letGo() {
    byId("hold").checked = false;
    this.rate = undefined;
    view.showRate([], undefined);
  }

  // --- one picture

  /** A person has chosen a depth. */
  chosen() {
    this.letGo();
    if (this.frames) this.update();
    else this.detect();
  }

  setThreshold() {
    this.threshold = Number(byId("threshold").value);
    view.showThreshold(this.threshold);
    this.update();
  }

  /** The picture of now at the depth of now. */
  async #detect() {
    const { network, threshold } = this;
    const picture = this.pictures.now;
    if (!network || !picture || this.frames) return;
    const { detector, controls, shown } = network;
    const { row } = controls;
    try {
      const found = await detector.detect(picture.pixels, { row: row.row, threshold });
      if (this.network !== network || this.pictures.now !== picture || this.frames) return;
      shown.show({ picture, threshold, row, found }, false);
      this.drawCurve();
      this.tidy();
    } catch (error) {
      if (this.network === network) view.fail(error);
    }
  }

  /** The picture of now at super and at base; of a camera, by the time others have followed. */
  async #compare() {
    const { network, threshold } = this;
    const picture = this.pictures.now;
    if (!network || !picture) return;
    const { detector, depths, shown } = network;
    this.compared = { picture, threshold };
    try {
      /** @type {(row: number) => Promise<Found>} */
      const foundAt = (row) => detector.detect(picture.pixels, { row, threshold });
      const whole = await foundAt(depths.super.row);
      const least = await foundAt(depths.base.row);
      if (this.network !== network || this.pictures.now?.source !== picture.source) return;
      shown.compare({ picture, threshold, found: [whole, least] });
    } catch (error) {
      if (this.network === network) view.fail(error);
    } finally {
      this.compared = undefined;
      this.tidy();
    }
  }

  redraw() {
    this.network?.shown.redraw();
    this.drawCurve();
  }

  drawCurve() {
    if (!this.network) return;
    const { depths, controls, shown } = this.network;
    view.showCurve(depths, controls.row, shown.measures);
  }
}

/** Half of the cores, at most four: more wait for each other. `?threads=2` asks for another number. */
function wantedThreads() {
  const asked = Number(new URLSearchParams(location.search).get("threads"));
  if (Number.isInteger(asked) && asked > 0) return Math.min(asked, 64);
  return Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 2) >> 1));
}

async function start() {
  view.reached();
  try {
    new App(await readSite());
  } catch (error) {
    view.failOpening(error);
  }
}

start();
