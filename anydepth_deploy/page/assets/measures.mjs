// @ts-check
/** What calls at each depth took in this browser. */

const KEPT = 25;

export class Measures {
  /** @type {Map<number, number[]>} the latest calls in milliseconds, by row */
  #taken = new Map();

  /**
   * @param {number} row
   * @param {number} milliseconds
   */
  add(row, milliseconds) {
    const taken = this.#taken.get(row) ?? [];
    taken.push(milliseconds);
    if (taken.length > KEPT) taken.shift();
    this.#taken.set(row, taken);
  }

  /**
   * The median of the latest calls; undefined before the first.
   * @param {number} row
   */
  median(row) {
    const sorted = [...(this.#taken.get(row) ?? [])].sort((one, other) => one - other);
    if (!sorted.length) return undefined;
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }

  /** Forget what was slow because the browser had not compiled yet. */
  clear() {
    this.#taken.clear();
  }

  get rows() {
    return [...this.#taken.keys()];
  }
}
