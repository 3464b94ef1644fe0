// @ts-check
/**
 * Pictures in, network input out; and boxes back to the picture. The arithmetic of
 * `anydepth_deploy.pictures.images`, to the last bit: float32, rounded after each step.
 */

import { resizeAveraging, resizeSampling, roundHalfEven } from "./resize.mjs";

/** @typedef {import("./description.mjs").Preprocess} Preprocess */
/** @typedef {import("./description.mjs").Detections} Detections */
/** @typedef {import("./resize.mjs").Picture} Picture */

/** What resizing may keep on the way, in pixels: a tall picture grows before it shrinks. */
const MOST_BETWEEN = 50_000_000;

/**
 * How an input maps back: `picture = (input - offset) * scale` along each side.
 * @typedef {object} Geometry
 * @property {[number, number]} scale along x and y
 * @property {[number, number]} offset along x and y, in pixels of the input
 * @property {[number, number]} size width and height of the picture
 */

/**
 * Where in the input a picture of this size lies.
 * @param {Preprocess} recipe
 * @param {number} height
 * @param {number} width
 * @returns {{top: number, left: number, rows: number, columns: number}}
 */
export function placed(recipe, height, width) {
  const [rows, columns] = recipe.size;
  if (recipe.resize === "stretch") return { top: 0, left: 0, rows, columns };
  const ratio = Math.min(rows / height, columns / width);
  const tall = Math.max(1, roundHalfEven(height * ratio));
  const wide = Math.max(1, roundHalfEven(width * ratio));
  return {
    top: Math.floor((rows - tall) / 2),
    left: Math.floor((columns - wide) / 2),
    rows: tall,
    columns: wide,
  };
}

/**
 * Throws an `Error` with a sentence for people for a picture that resizing makes too large.
 * @param {Picture} picture
 * @param {Preprocess} recipe
 * @returns {{input: Float32Array, geometry: Geometry}} input: (3, height, width) of the network
 */
export function prepare(picture, recipe) {
  const { width, height } = picture;
  const { top, left, rows, columns } = placed(recipe, height, width);
  if (recipe.antialias && height * columns > MOST_BETWEEN) {
    throw new Error(
      `A picture of ${width} x ${height} pixels is too tall to be resized here: make it smaller.`,
    );
  }
  const resize = recipe.antialias ? resizeAveraging : resizeSampling;
  const pixels = resize(picture, rows, columns);
  const [high, wide] = recipe.size;
  const input = new Float32Array(3 * high * wide);
  for (let channel = 0; channel < 3; channel++) {
    const levels = normalised(recipe, channel);
    const plane = input.subarray(channel * high * wide, (channel + 1) * high * wide);
    if (rows !== high || columns !== wide) plane.fill(levels[recipe.padding]);
    let from = channel;
    for (let row = 0; row < rows; row++) {
      const begin = (top + row) * wide + left;
      for (let at = begin; at < begin + columns; at++, from += 3) plane[at] = levels[pixels[from]];
    }
  }
  const geometry = {
    scale: /** @type {[number, number]} */ ([width / columns, height / rows]),
    offset: /** @type {[number, number]} */ ([left, top]),
    size: /** @type {[number, number]} */ ([width, height]),
  };
  return { input, geometry };
}

/**
 * What each of the 256 levels of a channel becomes: `(level * scale - mean) / std`.
 * @param {Preprocess} recipe
 * @param {number} channel
 */
function normalised(recipe, channel) {
  const [scale, mean, std] = [recipe.scale, recipe.mean[channel], recipe.std[channel]].map(Math.fround);
  return Float32Array.from({ length: 256 }, (_, level) =>
    Math.fround(Math.fround(Math.fround(level * scale) - mean) / std),
  );
}

/**
 * Those of `found` with a score of at least `threshold`, at most `maximum` of them, with boxes in
 * pixels of the picture, clipped to it. Places that hold nothing (label -1) are left out.
 * @param {Detections} found in pixels of the input
 * @param {Geometry} geometry
 * @param {number} threshold
 * @param {number} maximum
 * @returns {Detections}
 */
export function inPicture(found, geometry, threshold, maximum) {
  const least = Math.fround(threshold);
  /** @type {number[]} */
  const kept = [];
  for (let place = 0; place < found.scores.length && kept.length < maximum; place++) {
    if (found.scores[place] >= least && found.labels[place] !== -1) kept.push(place);
  }
  const boxes = new Float32Array(kept.length * 4);
  kept.forEach((place, index) => {
    for (let side = 0; side < 4; side++) {
      const axis = side % 2;
      const moved = Math.fround(found.boxes[place * 4 + side] - Math.fround(geometry.offset[axis]));
      const scaled = Math.fround(moved * Math.fround(geometry.scale[axis]));
      boxes[index * 4 + side] = Math.min(Math.max(scaled, 0), geometry.size[axis]);
    }
  });
  return {
    boxes,
    scores: Float32Array.from(kept, (place) => found.scores[place]),
    labels: Int32Array.from(kept, (place) => found.labels[place]),
  };
}
