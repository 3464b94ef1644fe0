// @ts-check
/**
 * What a call at each rung takes, learned from the calls that are made: the estimator of
 * `anydepth_deploy.control.estimator` for a ladder whose costs are guessed by multiply-adds, with
 * its constants and its order of operations, so that both decide alike. Why it is so is said there.
 */

const GAIN = 0.05;
const MOST_GAIN = 0.3;
const OWN_GAIN = 0.05;
const NOISE_GAIN = 0.05;
const LEAST_STEP = 0.06;
const STEP_NOISE = 3;
const FADING = 1 / 300;
const SAME = 0.25;
const FIRST_VISITS = 3;
const USUAL_TAIL = 0.1;

export class Costs {
  /** @param {number[]} guesses multiply-adds, from base to super */
  constructor(guesses) {
    const count = guesses.length;
    this.guesses = guesses;
    this.ladder = [...guesses];
    /** Milliseconds, once the first call has said what a multiply-add takes. */
    this.costs = [...guesses];
    this.known = false;
    this.noise = USUAL_TAIL / 3;
    this.scale = 1;
    this.corrections = new Array(count).fill(1);
    this.visits = new Array(count).fill(0);
    this.run = 0;
    this.oddRung = -1;
    this.oddRatio = 1;
    this.pending = new Array(count).fill(0);
    this.blamed = -1;
    this.blame = 1;
  }

  /**
   * @param {number} rung
   * @param {number} cost milliseconds, more than 0
   */
  observe(rung, cost) {
    if (this.visits[rung] < FIRST_VISITS) {
      this.#learn(rung, cost);
      this.#settle();
      return;
    }
    const ratio = cost / this.costs[rung];
    const error = ratio - 1;
    const limit = Math.max(STEP_NOISE * this.noise, LEAST_STEP);
    const size = Math.abs(error);
    this.noise += NOISE_GAIN * (Math.min(size, limit) * 1.25 - this.noise);
    if (size <= limit) this.#follow(rung, error);
    else this.#judge(rung, ratio);
    if (this.blamed !== -1 && this.blamed !== rung) this.blamed = -1;
    for (const [index, correction] of this.corrections.entries()) {
      if (index !== rung && correction !== 1) {
        this.corrections[index] = correction + FADING * (1 - correction);
      }
    }
    this.#settle();
  }

  /**
   * An error of usual size.
   * @param {number} rung
   * @param {number} error
   */
  #follow(rung, error) {
    if (error > 0) this.run = this.run > 0 ? this.run + 1 : 1;
    else if (error < 0) this.run = this.run < 0 ? this.run - 1 : -1;
    this.scale *= 1 + Math.min(GAIN * Math.abs(this.run), MOST_GAIN) * error;
    this.corrections[rung] *= 1 + OWN_GAIN * error;
    this.pending[rung] = 0;
    this.oddRung = -1;
  }

  /**
   * An error of unusual size: a stray call, or a step, and then whose.
   * @param {number} rung
   * @param {number} ratio
   */
  #judge(rung, ratio) {
    this.run = 0;
    if (this.blamed !== -1 && this.blamed !== rung) {
      const undone = ratio * this.blame;
      if (1 - SAME < undone && undone < 1 + SAME) {
        this.scale /= this.blame;
        this.corrections[this.blamed] *= this.blame;
        return;
      }
    }
    if (this.oddRung >= 0 && ratio > 1 === this.oddRatio > 1) {
      const factor = nearer(ratio, this.oddRatio);
      this.scale *= factor;
      if (this.oddRung === rung) {
        this.blame = factor * (this.blamed === rung ? this.blame : 1);
        this.blamed = rung;
      } else {
        this.blamed = -1;
      }
      this.oddRung = -1;
      this.pending.fill(0);
      return;
    }
    const before = this.pending[rung];
    if (before > 0 && ratio > 1 === before > 1) {
      this.corrections[rung] *= nearer(ratio, before);
      this.pending[rung] = 0;
      this.oddRung = -1;
      return;
    }
    this.pending[rung] = ratio;
    [this.oddRung, this.oddRatio] = [rung, ratio];
  }

  /**
   * The first calls of a rung: the fastest counts.
   * @param {number} rung
   * @param {number} cost
   */
  #learn(rung, cost) {
    const own = cost / this.scale;
    const known = this.ladder.map((value, index) => (this.visits[index] ? value : 0));
    if (!this.visits[rung] || own < this.ladder[rung]) known[rung] = own;
    this.visits[rung] += 1;
    this.ladder = fitted(this.guesses, known);
    this.known = true;
  }

  #settle() {
    this.costs = this.ladder.map((cost, index) => cost * this.scale * this.corrections[index]);
  }
}

/**
 * Costs of all rungs from those that are known (0: not yet), along their guesses.
 * @param {number[]} guesses
 * @param {number[]} known
 */
export function fitted(guesses, known) {
  const places = [...known.keys()].filter((index) => known[index] > 0);
  return guesses.map((guess, index) => {
    if (known[index] > 0) return known[index];
    if (places.length === 1) return (known[places[0]] * guess) / guesses[places[0]];
    const far = (/** @type {number} */ place) => Math.abs(guesses[place] - guess);
    const [first, second] = [...places].sort((one, other) => far(one) - far(other));
    const run = guesses[second] - guesses[first];
    const slope = run ? (known[second] - known[first]) / run : 0;
    const below = places.filter((place) => guesses[place] <= guess).map((place) => known[place]);
    const least = below.length ? Math.max(...below) : 0.1 * known[first];
    return Math.max(least, known[first] + slope * (guess - guesses[first]));
  });
}

/**
 * The one that is nearer to 1, of two on the same side of it.
 * @param {number} one
 * @param {number} other
 */
function nearer(one, other) {
  return one < other === one > 1 ? one : other;
}
