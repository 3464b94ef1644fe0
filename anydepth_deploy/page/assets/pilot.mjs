// @ts-check
/**
 * Moves the depth so that frames keep to a rate: the policy `mean` of
 * `anydepth_deploy.control.policies` (docs/pilot.md), on costs that are learned from the frames. With
 * the same milliseconds it decides as Python's controller does, which a test asserts.
 */

import { Costs } from "./costs.mjs";

const REPAY = 4;
const MOST_DEBT = 4;
const KEEP = 0.15;
const USUAL_GAPS = 2;
const USUAL_NOISE = 6;

export class Pilot {
  #debt = 0;
  #carry = 0;
  /** @type {[number, number]} */
  #pair = [0, 0];
  #last = -1;

  /**
   * @param {number[]} macs multiply-adds of the rungs, from base to super
   * @param {number} rate frames a second
   */
  constructor(macs, rate) {
    this.estimator = new Costs(macs);
    /** Milliseconds that a frame is to take. */
    this.target = 1000 / rate;
  }

  /** The rung of the next frame. */
  choose() {
    this.#last = this.estimator.known ? this.#chosen() : 0;
    return this.#last;
  }

  /** @param {number} milliseconds that the frame at the rung chosen last took */
  report(milliseconds) {
    const { estimator } = this;
    if (estimator.known) this.#debt += milliseconds - estimator.costs[this.#last];
    estimator.observe(this.#last, milliseconds);
  }

  #chosen() {
    const { costs } = this.estimator;
    const rungs = front(costs);
    const [least, most] = [costs[rungs[0]], costs[rungs[rungs.length - 1]]];
    const aim = within(this.target, least, most);
    const bound = MOST_DEBT * (most - least);
    const debt = within(this.#debt, -bound, bound);
    const [lower, upper] = this.#around(rungs, aim, debt);
    const [low, high] = [costs[lower], costs[upper]];
    const setpoint = within(aim - debt / REPAY, low, high);
    this.#debt = debt - (aim - setpoint);
    this.#pair = [lower, upper];
    const half = (high - low) / 2;
    const carry = within(this.#carry, -half, half) + setpoint;
    const rung = carry - low >= half ? upper : lower;
    this.#carry = carry - costs[rung];
    return rung;
  }

  /**
   * The neighbours on the front that the wish lies between.
   * @param {number[]} rungs
   * @param {number} aim
   * @param {number} debt
   * @returns {[number, number]}
   */
  #around(rungs, aim, debt) {
    const { costs } = this.estimator;
    const [lower, upper] = this.#pair;
    const noise = this.estimator.noise * aim;
    let usual = USUAL_NOISE * noise;
    const wish = () => (-usual <= debt && debt <= usual ? aim : aim - debt / REPAY);
    const place = rungs.indexOf(lower);
    if (lower !== upper && place >= 0 && rungs[place + 1] === upper) {
      const gap = costs[upper] - costs[lower];
      usual = Math.max(usual, USUAL_GAPS * gap);
      const margin = Math.max(KEEP * gap, noise);
      if (costs[lower] - margin <= wish() && wish() <= costs[upper] + margin) return this.#pair;
    }
    for (let next = 1; next < rungs.length; next++) {
      if (wish() < costs[rungs[next]] || next === rungs.length - 1) {
        return [rungs[next - 1], rungs[next]];
      }
    }
    return [rungs[0], rungs[0]];
  }
}

/**
 * The rungs that no deeper one undercuts, from cheap to dear.
 * @param {number[]} costs
 */
function front(costs) {
  const found = [costs.length - 1];
  for (let rung = costs.length - 2; rung >= 0; rung--) {
    if (costs[rung] < costs[found[0]]) found.unshift(rung);
  }
  return found;
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function within(value, least, most) {
  return value < least ? least : value > most ? most : value;
}
