// @ts-check
/** The page: a network, a picture, a depth, and what comes of them. */

import { inWords } from "./canvas.mjs";
import { DepthControls } from "./controls.mjs";
import { Depths, shownMacs } from "./depths.mjs";
import { Detector } from "./detector.mjs";
import { byId } from "./dom.mjs";
import { Measures } from "./measures.mjs";
import { lackedBy } from "./missing.mjs";
import { pixelsOf } from "./picture.mjs";
import { Pilot } from "./pilot.mjs";
import { listen, markSample, openCamera, showSamples } from "./sources.mjs";
import { warmUp } from "./warm.mjs";
import * as view from "./view.mjs";

/** @typedef {import("./depths.mjs").Row} Row */
/** @typedef {import("./detector.mjs").Found} Found */
/** @typedef {{pixels: ImageData, bitmap: ImageBitmap, name: string}} Picture */

/** Most milliseconds without a word to a screen reader while pictures move. */
const QUIET = 2500;
/** Frames whose rate is told. */
const FRAMES = 30;

class App {
  /** @type {Detector | undefined} */
  detector;
  /** @type {Depths | undefined} */
  depths;
  /** @type {DepthControls | undefined} */
  controls;
  /** @type {Picture | undefined} */
  picture;
  /** @type {Found | undefined} what was shown last */
  found;
  /** @type {[Found, Found] | undefined} of super and of base */
  both;
  /** @type {(() => void) | undefined} */
  endCamera;
  /** @type {Pilot | undefined} */
  pilot;
  measures = new Measures();
  /** Counts models and pictures: what comes late for an earlier one is not shown. */
  turn = 0;
  opened = 0;
  moving = false;
  wanted = false;
  busy = false;
  told = 0;

  /** @param {any} site what `site.json` says */
  constructor(site) {
    this.site = site;
    this.threshold = Number(byId("threshold").value);
    listen({
      onPicture: (source, name) => this.load(source, name),
      onFailure: view.fail,
    });
    showSamples(site.samples, (address, name) => this.load(address, name));
    byId("camera").addEventListener("click", () => this.toggleCamera());
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
    this.turn++;
    this.moving = false;
    this.letGo();
    this.detector?.close();
    this.detector = undefined;
    this.measures.clear();
    view.startOpening();
    try {
      const runtime = new URL(this.site.runtime, document.baseURI);
      const options = { runtime, threads: wantedThreads(), onProgress: view.showOpening };
      const detector = await Detector.open(new URL(folder, document.baseURI), options);
      if (opened !== this.opened) {
        detector.close();
        return;
      }
      this.detector = detector;
    } catch (error) {
      if (opened === this.opened) view.failOpening(error);
      return;
    }
    const { description } = this.detector;
    this.names = description.manifest.classes;
    this.depths = new Depths(description);
    this.controls = new DepthControls(this.depths, () => this.chosen());
    view.endOpening(description, this.detector.threads);
    if (this.picture) await this.again();
    else if (this.site.samples.length) {
      await this.load(this.site.samples[0].file, this.site.samples[0].name);
    }
    await this.warm(this.detector);
    if (opened === this.opened) await this.again();
  }

  /** @param {Detector} detector */
  async warm(detector) {
    const goOn = () => this.detector === detector && !this.moving;
    try {
      await warmUp(detector, /** @type {Depths} */ (this.depths), {
        onProgress: view.showWarming,
        onMeasured: (row, milliseconds) => {
          this.measures.add(row, milliseconds);
          this.drawCurve();
        },
        goOn,
      });
    } catch (error) {
      if (this.detector === detector) view.fail(error);
    }
    if (this.detector === detector) {
      this.warmed = detector;
      view.endWarming(this.detector.threads);
    }
  }

  // --- pictures

  /**
   * @param {Blob | string} source
   * @param {string} name
   */
  async load(source, name) {
    const turn = ++this.turn;
    try {
      const pixels = await pixelsOf(source);
      const bitmap = await createImageBitmap(pixels);
      if (turn !== this.turn) return;
      if (this.endCamera) this.stopCamera();
      this.picture = { pixels, bitmap, name };
    } catch (error) {
      if (turn === this.turn) view.fail(error);
      return;
    }
    view.clearFailure();
    markSample(name);
    if (this.moving) await this.compare();
    else await this.again();
  }

  async toggleCamera() {
    if (this.endCamera) {
      this.stopCamera();
      return;
    }
    try {
      this.endCamera = await openCamera(byId("video"));
    } catch (error) {
      view.fail(error);
      return;
    }
    view.clearFailure();
    markSample("");
    byId("camera").setAttribute("aria-pressed", "true");
    this.move();
  }

  stopCamera() {
    this.endCamera?.();
    this.endCamera = undefined;
    byId("camera").setAttribute("aria-pressed", "false");
  }

  // --- one picture after the other

  /** Whether pictures move, or the same one is computed over and over. */
  get live() {
    return Boolean(this.endCamera || this.pilot);
  }

  async move() {
    if (this.moving || !this.detector) return;
    this.moving = true;
    const detector = this.detector;
    /** @type {number[]} when frames were shown */
    const shown = [];
    try {
      while (this.moving && this.live && this.detector === detector) {
        const began = performance.now();
        const picture = await this.frame();
        if (!picture) break;
        const pilot = this.pilot;
        const depths = /** @type {Depths} */ (this.depths);
        const controls = /** @type {DepthControls} */ (this.controls);
        if (pilot) controls.show(depths.ladder[pilot.choose()]);
        const row = controls.row;
        const found = await detector.detect(picture.pixels, this.options(row));
        if (this.detector !== detector) break;
        this.show(picture, row, found);
        const took = performance.now() - began;
        pilot?.report(took);
        shown.push(performance.now());
        if (shown.length > FRAMES) shown.shift();
        view.showRate(shown, pilot);
        // A rate that super keeps is not exceeded; and the page has a moment for everything else.
        const spare = pilot ? pilot.target - took : 0;
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, spare)));
      }
    } catch (error) {
      if (this.detector === detector) view.fail(error);
      this.letGo();
      this.stopCamera();
    }
    this.moving = false;
    if (this.detector === detector) await this.again();
  }

  /** @returns {Promise<Picture | undefined>} */
  async frame() {
    if (!this.endCamera) return this.picture;
    const pixels = await pixelsOf(byId("video"));
    this.picture = { pixels, bitmap: await createImageBitmap(pixels), name: "camera" };
    return this.picture;
  }

  hold() {
    const rate = Number(byId("rate").value);
    const on = byId("hold").checked;
    if (on && !(rate > 0 && Number.isFinite(rate))) {
      view.fail("The frame rate must be a number above 0.");
      byId("hold").checked = false;
    }
    this.pilot = undefined;
    view.showRate([], undefined);
    if (!byId("hold").checked || !this.depths) return;
    view.clearFailure();
    this.pilot = new Pilot(this.depths.ladder.map((rung) => rung.macs), rate);
    this.move();
  }

  /** The depth is a person's again. */
  letGo() {
    byId("hold").checked = false;
    this.pilot = undefined;
    view.showRate([], undefined);
  }

  // --- one picture

  /** A person has chosen a depth. */
  chosen() {
    this.letGo();
    if (!this.moving) this.detect();
  }

  setThreshold() {
    this.threshold = Number(byId("threshold").value);
    view.showThreshold(this.threshold);
    if (!this.moving) this.again();
  }

  /** @param {Row} row */
  options(row) {
    return { row: row.row, threshold: this.threshold };
  }

  /** Everything of the picture anew. */
  async again() {
    if (this.moving || !this.picture || !this.detector) return;
    await this.detect();
    await this.compare();
  }

  /** The picture at the depth that is chosen now; of many calls meanwhile, the last one counts. */
  async detect() {
    this.wanted = true;
    if (this.busy) return;
    this.busy = true;
    while (this.wanted) {
      this.wanted = false;
      const { detector, picture, controls } = this;
      if (!detector || !picture || !controls) break;
      const row = controls.row;
      try {
        const found = await detector.detect(picture.pixels, this.options(row));
        if (this.detector === detector && this.picture === picture) this.show(picture, row, found);
      } catch (error) {
        if (this.detector === detector) view.fail(error);
      }
    }
    this.busy = false;
  }

  /**
   * @param {Picture} picture
   * @param {Row} row
   * @param {Found} found
   */
  show(picture, row, found) {
    const depths = /** @type {Depths} */ (this.depths);
    this.found = found;
    if (this.warmed === this.detector) this.measures.add(row.row, found.milliseconds.network);
    view.showFound(picture, found, this.names ?? []);
    view.showFigures(depths, row, found, this.measures, this.both?.[0]);
    this.drawCurve();
    const now = performance.now();
    if (this.live && now - this.told < QUIET) return;
    this.told = now;
    const milliseconds = found.milliseconds.network.toFixed(1);
    view.tell(
      `${depths.called(row)}: ${inWords(this.names ?? [], found)}, ${milliseconds} milliseconds, ` +
        `${shownMacs(row.macs)} multiply-adds`,
    );
  }

  async compare() {
    const { detector, depths, picture } = this;
    if (!detector || !depths || !picture) return;
    try {
      const whole = await detector.detect(picture.pixels, this.options(depths.super));
      const least = await detector.detect(picture.pixels, this.options(depths.base));
      if (this.detector !== detector || this.picture !== picture) return;
      this.both = [whole, least];
      this.showBoth();
      if (this.controls && this.found) {
        view.showFigures(depths, this.controls.row, this.found, this.measures, whole);
      }
    } catch (error) {
      if (this.detector === detector) view.fail(error);
    }
  }

  showBoth() {
    if (!this.both || !this.picture) return;
    const [whole, least] = this.both;
    const lacked = /** @type {[Set<number>, Set<number>]} */ ([
      lackedBy(whole, least),
      lackedBy(least, whole),
    ]);
    view.showBoth(this.picture, this.both, lacked, this.names ?? []);
  }

  redraw() {
    if (this.picture && this.found) view.showFound(this.picture, this.found, this.names ?? []);
    this.showBoth();
    this.drawCurve();
  }

  drawCurve() {
    if (this.depths && this.controls) {
      view.showCurve(this.depths, this.controls.row, this.measures);
    }
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
  let site;
  try {
    const response = await fetch("site.json");
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    site = await response.json();
  } catch (error) {
    view.failOpening(
      new Error(
        `site.json, which says what this page shows, cannot be read ` +
          `(${error instanceof Error ? error.message : error}): write the page again.`,
      ),
    );
    return;
  }
  new App(site);
}

start();
