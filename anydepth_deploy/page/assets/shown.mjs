// @ts-check
/**
 * What is shown now of a network. A picture, what was found in it, and how, stay together: neither boxes nor
 * counts of one picture, depth or least score stand beside those of another.
 */

import { inWords } from "./canvas.mjs";
import { shownMacs } from "./depths.mjs";
import { Measures } from "./measures.mjs";
import { lackedBy } from "./missing.mjs";
import * as view from "./view.mjs";

/** @typedef {import("./depths.mjs").Depths} Depths */
/** @typedef {import("./depths.mjs").Row} Row */
/** @typedef {import("./detector.mjs").Found} Found */

/** @typedef {import("./pictures.mjs").Picture} Picture */
/** @typedef {{picture: Picture, threshold: number}} Subject */
/** @typedef {Subject & {row: Row, found: Found}} One */
/** @typedef {Subject & {found: [Found, Found]}} Both of super and of base */

/** Most milliseconds without a word to a screen reader while pictures move. */
const QUIET = 2500;

export class Shown {
  /** @type {One | undefined} */
  one;
  /** @type {Both | undefined} */
  both;
  /** Whether the browser has compiled the network: what calls took before does not count. */
  warm = false;
  #told = 0;

  /**
   * @param {Depths} depths
   * @param {string[]} names of classes
   */
  constructor(depths, names) {
    this.depths = depths;
    this.names = names;
    this.measures = new Measures();
  }

  /**
   * @param {One} one
   * @param {boolean} moving whether others follow soon
   */
  show(one, moving) {
    this.one = one;
    if (this.warm) this.measures.add(one.row.row, one.found.milliseconds.network);
    view.showFound(one.picture, one.found, this.names);
    this.figures();
    const now = performance.now();
    if (moving && now - this.#told < QUIET) return;
    this.#told = now;
    const { row, found } = one;
    view.tell(
      `${this.depths.called(row)}: ${inWords(this.names, found)}, ` +
        `${found.milliseconds.network.toFixed(1)} milliseconds, ${shownMacs(row.macs)} multiply-adds`,
    );
  }

  /** @param {Both} both */
  compare(both) {
    this.both = both;
    this.#drawBoth();
    this.figures();
  }

  /** Milliseconds, multiply-adds and objects, beside those of super. */
  figures() {
    const { one, both, depths } = this;
    if (!one) return;
    const same = both?.picture === one.picture && both.threshold === one.threshold;
    view.showFigures(depths, one.row, one.found, this.measures, same ? both.found[0] : undefined);
  }

  /** On canvases of another size. */
  redraw() {
    if (this.one) view.showFound(this.one.picture, this.one.found, this.names);
    this.#drawBoth();
  }

  #drawBoth() {
    if (!this.both) return;
    const { picture, found } = this.both;
    const [whole, least] = found;
    view.showBoth(picture, found, [lackedBy(whole, least), lackedBy(least, whole)], this.names);
  }
}
