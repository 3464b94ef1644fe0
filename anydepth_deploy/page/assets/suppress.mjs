// @ts-check
/**
 * Class-aware non-maximum suppression, where the graph leaves it to the host: what
 * `anydepth_deploy.suppression` computes, in float32 and in the same order.
 */

/** @typedef {import("./description.mjs").Detections} Detections */
/** @typedef {import("./description.mjs").Suppression} Suppression */

const f = Math.fround;

/**
 * The best `maximum` detections of all classes, in pixels of the input.
 *
 * Of the boxes of one class with a score above the threshold, taken from the best down, one is
 * dropped when its intersection over union with a kept one is above the rule's.
 * @param {Float32Array} predictions (4 + classes, anchors): cx, cy, w, h, then scores
 * @param {number} classes
 * @param {Suppression} rule
 * @param {number} maximum
 * @returns {Detections}
 */
export function suppress(predictions, classes, rule, maximum) {
  const anchors = predictions.length / (4 + classes);
  const corners = cornersOf(predictions, anchors);
  const least = f(rule.score_threshold);
  /** @type {number[]} places in the table of scores, class by class */
  const kept = [];
  for (let label = 0; label < classes; label++) {
    const begin = label * anchors;
    const scores = predictions.subarray((4 + label) * anchors, (5 + label) * anchors);
    const candidates = [];
    for (let anchor = 0; anchor < anchors; anchor++) {
      if (scores[anchor] > least) candidates.push(anchor);
    }
    // Sorting is stable: of equal scores the first one wins.
    candidates.sort((one, other) => scores[other] - scores[one]);
    for (const anchor of greedy(corners, candidates, f(rule.iou_threshold), maximum)) {
      kept.push(begin + anchor);
    }
  }
  const score = (/** @type {number} */ place) => predictions[4 * anchors + place];
  kept.sort((one, other) => score(other) - score(one) || one - other);
  kept.splice(maximum);
  const boxes = new Float32Array(kept.length * 4);
  kept.forEach((place, index) => {
    const anchor = place % anchors;
    boxes.set(corners.subarray(anchor * 4, anchor * 4 + 4), index * 4);
  });
  return {
    boxes,
    scores: Float32Array.from(kept, score),
    labels: Int32Array.from(kept, (place) => Math.floor(place / anchors)),
  };
}

/**
 * @param {Float32Array} predictions
 * @param {number} anchors
 * @returns {Float32Array} (anchors, 4): x1, y1, x2, y2
 */
function cornersOf(predictions, anchors) {
  const corners = new Float32Array(anchors * 4);
  for (let anchor = 0; anchor < anchors; anchor++) {
    for (let axis = 0; axis < 2; axis++) {
      const centre = predictions[axis * anchors + anchor];
      const half = f(predictions[(2 + axis) * anchors + anchor] * 0.5);
      corners[anchor * 4 + axis] = centre - half;
      corners[anchor * 4 + 2 + axis] = centre + half;
    }
  }
  return corners;
}

/**
 * Those of `candidates`, best first, that none of the better ones drops.
 * @param {Float32Array} corners
 * @param {number[]} candidates
 * @param {number} iou
 * @param {number} limit
 */
function greedy(corners, candidates, iou, limit) {
  /** @type {number[]} */
  const kept = [];
  for (const candidate of candidates) {
    if (kept.length >= limit) break;
    if (!kept.some((better) => overlaps(corners, better, candidate, iou))) kept.push(candidate);
  }
  return kept;
}

/**
 * @param {Float32Array} corners
 * @param {number} one
 * @param {number} other
 * @param {number} iou
 */
function overlaps(corners, one, other, iou) {
  const a = sides(corners, one);
  const b = sides(corners, other);
  const x = f(Math.min(a.right, b.right) - Math.max(a.left, b.left));
  const y = f(Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  const overlap = x > 0 && y > 0 ? f(x * y) : 0;
  const union = f(f(a.area + b.area) - overlap);
  return overlap > 0 && union > 0 && f(overlap / union) > iou;
}

/**
 * A box with whichever corner is which.
 * @param {Float32Array} corners
 * @param {number} anchor
 */
function sides(corners, anchor) {
  const [x1, y1, x2, y2] = corners.subarray(anchor * 4, anchor * 4 + 4);
  const [left, right] = [Math.min(x1, x2), Math.max(x1, x2)];
  const [top, bottom] = [Math.min(y1, y2), Math.max(y1, y2)];
  return { left, right, top, bottom, area: f(f(right - left) * f(bottom - top)) };
}
