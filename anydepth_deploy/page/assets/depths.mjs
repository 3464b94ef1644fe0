// @ts-check
/** Which depths a network has: its ladder, its gates, and the row of each combination. */

/**
 * @typedef {object} Gate
 * @property {string} name
 * @property {number} layers 0: a gate that skips; else it says how many of so many layers run
 * @property {number[]} choices settings, the fullest first; 0 of a gate that skips: it runs in full
 */

/**
 * @typedef {object} Row
 * @property {number} row what the graph takes as its input `depth`
 * @property {string} depth
 * @property {number[]} settings of each gate
 * @property {number} macs multiply-adds
 */

export class Depths {
  /** @param {any} description what `page.json` says */
  constructor({ gates, ladder, depths }) {
    if (![gates, ladder, depths].every(Array.isArray) || !ladder.length) {
      throw new Error("page.json does not say which depths there are: write the page again.");
    }
    /** @type {Gate[]} */
    this.gates = gates;
    /** @type {Row[]} from base to super */
    this.ladder = ladder.map((/** @type {number} */ row) => depths[row]);
    /** @type {Row[]} */
    this.rows = depths;
    this.base = this.ladder[0];
    this.super = this.ladder[this.ladder.length - 1];
    /** @type {Map<string, Row>} */
    this.bySettings = new Map(this.rows.map((row) => [row.settings.join(), row]));
  }

  /**
   * The depth with other setting of one gate; undefined where the network has none.
   * @param {Row} row
   * @param {number} gate
   * @param {number} setting
   */
  changed(row, gate, setting) {
    const settings = [...row.settings];
    settings[gate] = setting;
    return this.bySettings.get(settings.join());
  }

  /**
   * The level of a depth; -1 where the ladder does not name it.
   * @param {Row} row
   */
  level(row) {
    return this.ladder.findIndex((rung) => rung.row === row.row);
  }

  /**
   * The level of the rung whose multiply-adds are nearest.
   * @param {Row} row
   */
  nearest(row) {
    const own = this.level(row);
    if (own >= 0) return own;
    const far = this.ladder.map((rung) => Math.abs(rung.macs - row.macs));
    return far.indexOf(Math.min(...far));
  }

  /**
   * What a depth is called: `base`, `super` or its settings.
   * @param {Row} row
   */
  called(row) {
    if (row.row === this.super.row) return "super";
    return row.row === this.base.row ? "base" : row.depth;
  }
}

/**
 * Multiply-adds for people.
 * @param {number} macs
 */
export function shownMacs(macs) {
  return macs >= 1e9 ? `${(macs / 1e9).toFixed(2)} G` : `${(macs / 1e6).toFixed(1)} M`;
}
