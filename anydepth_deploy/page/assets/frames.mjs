// @ts-check
/** One frame after the other, at a rate where one is to be held. */

import { Pilot } from "./pilot.mjs";

/** Frames by which the schedule may be behind: what is later than that is not made up for. */
const MOST_LATE = 4;
/** Milliseconds that a timer of a browser can wait. */
const LONGEST = 2 ** 31 - 1;

/** The time, which tests replace. */
const CLOCK = {
  now: () => performance.now(),
  /** @type {(call: () => void, milliseconds: number) => void} */
  later: (call, milliseconds) => void setTimeout(call, Math.min(milliseconds, LONGEST)),
};

/** Frames a second that are to be held: which rung is next, and when. */
export class Rate {
  /** @type {number | undefined} when the next frame is to begin */
  #due;

  /**
   * @param {number[]} macs multiply-adds of the rungs, from base to super
   * @param {number} rate frames a second
   */
  constructor(macs, rate) {
    this.pilot = new Pilot(macs, rate);
  }

  /** The rung of the next frame. */
  choose() {
    return this.pilot.choose();
  }

  /**
   * Tell how long a frame took, from `began` to `now`: all of it, or the rate would be missed by the
   * rest. The answer: milliseconds until the next frame.
   *
   * Frames are due at even distances. The pilot alternates between two rungs whose mean takes the
   * time that there is, so a short frame's rest is the long one's: a pause after each short frame
   * would never be made up for.
   * @param {number} began
   * @param {number} now
   * @param {boolean} [alone] false where the network did something else, too: of such frames the
   *   pilot would learn that their rung is dear, and leave it for good
   */
  report(began, now, alone = true) {
    if (alone) this.pilot.report(now - began);
    const { target } = this.pilot;
    const due = Math.min(this.#due ?? began, began); // one that was hurried is not waited for twice
    this.#due = Math.max(due + target, now - MOST_LATE * target);
    return Math.max(0, this.#due - now);
  }
}

/** Frames until they are ended. Another `Frames` may begin before the last frame of this one is over. */
export class Frames {
  ended = false;
  #hurried = false;
  #wake = () => {};

  /** @param {typeof CLOCK} [clock] */
  constructor(clock = CLOCK) {
    this.clock = clock;
    /** Settled when the last frame is over. */
    this.over = Promise.resolve();
  }

  /**
   * @param {object} calls
   * @param {(rate: Rate | undefined) => Promise<boolean>} calls.frame computes and shows a frame;
   *   whether the network did nothing else meanwhile
   * @param {() => Rate | undefined} calls.rate what is to be held now
   * @param {(error: unknown) => void} calls.onFailure frames have ended with that
   */
  start({ frame, rate, onFailure }) {
    this.over = this.#run(frame, rate).catch((error) => {
      const late = this.ended;
      this.ended = true;
      if (!late) onFailure(error);
    });
  }

  /** Do not wait for the next frame's time: something is new. */
  hurry() {
    this.#hurried = true;
    this.#wake();
  }

  end() {
    this.ended = true;
    this.hurry();
  }

  /**
   * @param {(rate: Rate | undefined) => Promise<boolean>} frame
   * @param {() => Rate | undefined} rate
   */
  async #run(frame, rate) {
    const { clock } = this;
    while (!this.ended) {
      this.#hurried = false;
      const held = rate();
      const began = clock.now();
      const alone = await frame(held);
      // In it the browser paints, and hears what a person does.
      await new Promise((resolve) => clock.later(() => resolve(undefined), 0));
      if (this.ended || !held || held !== rate()) continue;
      await this.#pause(held.report(began, clock.now(), alone));
    }
  }

  /** @param {number} milliseconds */
  async #pause(milliseconds) {
    if (this.#hurried || milliseconds <= 0) return;
    await new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      this.clock.later(this.#wake, milliseconds);
    });
  }
}
