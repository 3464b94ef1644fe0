// @ts-check
/** Which objects one depth finds and another lacks. */

/** @typedef {import("./description.mjs").Detections} Detections */

/** Two boxes mean one object where they overlap by as much (intersection over union). */
export const SAME = 0.5;

/**
 * Places of those of `one` that have no counterpart of their class in `other`. Each box of `other`
 * is the counterpart of one only: that with the best score comes first.
 * @param {Detections} one
 * @param {Detections} other
 * @returns {Set<number>}
 */
export function lackedBy(one, other) {
  const free = new Set(other.labels.keys());
  const lacked = new Set();
  for (let place = 0; place < one.labels.length; place++) {
    let best = -1;
    let most = SAME;
    for (const candidate of free) {
      if (other.labels[candidate] !== one.labels[place]) continue;
      const overlap = overlapOf(boxOf(one, place), boxOf(other, candidate));
      if (overlap >= most) [best, most] = [candidate, overlap];
    }
    if (best < 0) lacked.add(place);
    else free.delete(best);
  }
  return lacked;
}

/**
 * @param {Detections} found
 * @param {number} place
 */
export function boxOf(found, place) {
  return found.boxes.subarray(4 * place, 4 * place + 4);
}

/**
 * @param {Float32Array} one
 * @param {Float32Array} other
 */
function overlapOf(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const both = width * height;
  return both / (area(one) + area(other) - both);
}

/** @param {Float32Array} box */
function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}
