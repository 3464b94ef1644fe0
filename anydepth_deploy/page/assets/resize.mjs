// @ts-check
/**
 * Bilinear resizing of 8-bit pictures, to the same bits as `anydepth_deploy.pictures.resize`:
 * averaging as Pillow does it, and sampling as OpenCV does.
 *
 * A picture is `{data, width, height}` with four bytes a pixel (red, green, blue and one that is
 * not looked at), as `ImageData` is. A result has three bytes a pixel.
 */

/** @typedef {{data: Uint8ClampedArray | Uint8Array, width: number, height: number}} Picture */

/** Binary places of a weight of averaging: 32, less 8 for the values, less 2 for their sum. */
const AVERAGING_BITS = 22;

/** Binary places of a weight of sampling, along one side. */
const SAMPLING_BITS = 11;

/**
 * Resize `picture`, along rows first: each pass rounds, so that the order shows in single levels.
 * @param {Picture} picture
 * @param {number} rows height of the result
 * @param {number} columns width of the result
 * @returns {Uint8Array} rows x columns x 3
 */
export function resizeAveraging(picture, rows, columns) {
  const { width, height } = picture;
  // Four bytes a pixel are read, three written; the second pass reads three.
  const wide = alongRows(picture, columns === width ? null : windows(width, columns), columns);
  return rows === height ? wide : alongColumns(wide, columns * 3, windows(height, rows));
}

/**
 * @typedef {object} Windows which pixels each place of the result averages over
 * @property {Int32Array} first the first pixel of each place
 * @property {Int32Array} counts how many there are
 * @property {Int32Array} weights `most` for each place, in units of 2 ** -22
 * @property {number} most
 */

/**
 * The windows of a triangle filter, as wide as a pixel of the result or of the picture, whichever
 * is wider, with weights that add up to one before they are rounded.
 * @param {number} before pixels along this side
 * @param {number} after the same of the result
 * @returns {Windows}
 */
function windows(before, after) {
  const ratio = before / after;
  const reach = Math.max(ratio, 1);
  const most = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(after);
  const counts = new Int32Array(after);
  const weights = new Int32Array(after * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < after; place++) {
    const centre = (place + 0.5) * ratio;
    const begin = Math.max(0, Math.trunc(centre - reach + 0.5));
    const count = Math.min(before, Math.trunc(centre + reach + 0.5)) - begin;
    let sum = 0;
    for (let index = 0; index < count; index++) {
      // Multiplied by the reciprocal, not divided: the last bit decides how a weight is rounded.
      const distance = Math.abs((index + begin - centre + 0.5) * (1 / reach));
      exact[index] = distance < 1 ? 1 - distance : 0;
      sum += exact[index];
    }
    for (let index = 0; index < count; index++) {
      const weight = sum ? exact[index] / sum : exact[index];
      weights[place * most + index] = Math.trunc(0.5 + weight * 2 ** AVERAGING_BITS);
    }
    first[place] = begin;
    counts[place] = count;
  }
  return { first, counts, weights, most };
}

/**
 * @param {Picture} picture
 * @param {Windows | null} places none where the width stays
 * @param {number} columns
 * @returns {Uint8Array} height x columns x 3
 */
function alongRows({ data, width, height }, places, columns) {
  const found = new Uint8Array(height * columns * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    const begin = row * width * 4;
    if (!places) {
      for (let at = begin; at < begin + width * 4; at += 4) {
        found[to++] = data[at];
        found[to++] = data[at + 1];
        found[to++] = data[at + 2];
      }
      continue;
    }
    const { first, counts, weights, most } = places;
    for (let place = 0; place < columns; place++) {
      let red = 1 << (AVERAGING_BITS - 1);
      let green = red;
      let blue = red;
      let at = begin + first[place] * 4;
      const end = place * most + counts[place];
      for (let index = place * most; index < end; index++, at += 4) {
        const weight = weights[index];
        red = (red + Math.imul(data[at], weight)) | 0;
        green = (green + Math.imul(data[at + 1], weight)) | 0;
        blue = (blue + Math.imul(data[at + 2], weight)) | 0;
      }
      found[to++] = level(red);
      found[to++] = level(green);
      found[to++] = level(blue);
    }
  }
  return found;
}

/**
 * @param {Uint8Array} wide rows of `across` bytes
 * @param {number} across
 * @param {Windows} places
 * @returns {Uint8Array} as many rows as there are places
 */
function alongColumns(wide, across, { first, counts, weights, most }) {
  const found = new Uint8Array(first.length * across);
  const sums = new Int32Array(across);
  for (let place = 0; place < first.length; place++) {
    sums.fill(1 << (AVERAGING_BITS - 1));
    for (let index = 0; index < counts[place]; index++) {
      const weight = weights[place * most + index];
      const begin = (first[place] + index) * across;
      for (let column = 0; column < across; column++) {
        sums[column] += Math.imul(wide[begin + column], weight);
      }
    }
    for (let column = 0; column < across; column++) {
      found[place * across + column] = level(sums[column]);
    }
  }
  return found;
}

/**
 * Rounded weights may add up to a little more than one.
 * @param {number} sum
 */
function level(sum) {
  const found = sum >> AVERAGING_BITS;
  return found > 255 ? 255 : found;
}

/**
 * Resize `picture` without antialiasing: place `i` reads at `(i + 0.5) * before / after - 0.5`,
 * between two pixels of each side, with weights of 11 binary places, and is rounded once.
 * @param {Picture} picture
 * @param {number} rows height of the result
 * @param {number} columns width of the result
 * @returns {Uint8Array} rows x columns x 3
 */
export function resizeSampling({ data, width, height }, rows, columns) {
  const down = samples(height, rows);
  const across = samples(width, columns);
  const one = 1 << SAMPLING_BITS;
  const half = 1 << (2 * SAMPLING_BITS - 1);
  const found = new Uint8Array(rows * columns * 3);
  let to = 0;
  for (let row = 0; row < rows; row++) {
    const upper = down.first[row] * width * 4;
    const lower = down.second[row] * width * 4;
    const below = down.weights[row];
    for (let column = 0; column < columns; column++) {
      const left = across.first[column] * 4;
      const right = across.second[column] * 4;
      const beside = across.weights[column];
      for (let channel = 0; channel < 3; channel++) {
        const top = data[upper + left + channel] * (one - beside) + data[upper + right + channel] * beside;
        const bottom = data[lower + left + channel] * (one - beside) + data[lower + right + channel] * beside;
        found[to++] = (top * (one - below) + bottom * below + half) >> (2 * SAMPLING_BITS);
      }
    }
  }
  return found;
}

/**
 * The two pixels that each place of the result lies between, and the weight of the second in units
 * of 2 ** -11.
 * @param {number} before
 * @param {number} after
 */
function samples(before, after) {
  const first = new Int32Array(after);
  const second = new Int32Array(after);
  const weights = new Int32Array(after);
  for (let place = 0; place < after; place++) {
    const at = Math.min(Math.max((place + 0.5) * (before / after) - 0.5, 0), before - 1);
    first[place] = Math.floor(at);
    second[place] = Math.min(first[place] + 1, before - 1);
    weights[place] = roundHalfEven((at - first[place]) * (1 << SAMPLING_BITS));
  }
  return { first, second, weights };
}

/**
 * To the next whole number, and in the middle between two to the even one, as NumPy and Python do.
 * @param {number} value not below zero
 */
export function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return below + (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? 1 : 0);
}
