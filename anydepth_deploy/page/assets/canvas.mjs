// @ts-check
/** Pictures with boxes on a canvas, and the same in words. */

import { boxOf } from "./missing.mjs";

/** @typedef {import("./description.mjs").Detections} Detections */

/** Letters of a name that fit beside others. */
const LONGEST = 40;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasImageSource & {width: number, height: number}} picture
 * @param {Detections} found
 * @param {object} options
 * @param {string[]} options.names of classes
 * @param {number} options.highest of the canvas on the page, in CSS pixels
 * @param {Set<number>} [options.marked] places of objects that something else lacks
 */
export function draw(canvas, picture, found, { names, highest, marked = new Set() }) {
  const room = canvas.parentElement?.clientWidth || 320;
  const scale = Math.min(room / picture.width, highest / picture.height);
  const density = window.devicePixelRatio || 1;
  const [width, height] = [picture.width * scale, picture.height * scale];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.max(1, Math.round(width * density));
  canvas.height = Math.max(1, Math.round(height * density));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const factor = scale * density;
  // The best ones last, on top.
  for (let place = found.labels.length - 1; place >= 0; place--) {
    const [x1, y1, x2, y2] = [...boxOf(found, place)].map((value) => value * factor);
    const colour = marked.has(place) ? "#f59e0b" : colourOf(found.labels[place]);
    outline(context, [x1, y1, x2 - x1, y2 - y1], colour, density, marked.has(place));
  }
  for (let place = found.labels.length - 1; place >= 0; place--) {
    const name = nameOf(names, found.labels[place]);
    const text = `${name} ${found.scores[place].toFixed(2)}`;
    const [x, y] = [...boxOf(found, place)].map((value) => value * factor);
    const colour = marked.has(place) ? "#92400e" : colourOf(found.labels[place]);
    label(context, marked.has(place) ? `▲ ${text}` : text, x, y, colour, density);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {[number, number, number, number]} box
 * @param {string} colour
 * @param {number} density
 * @param {boolean} marked
 */
function outline(context, box, colour, density, marked) {
  // A dark edge, so that it is seen on any background.
  context.setLineDash([]);
  context.lineWidth = (marked ? 6 : 4) * density;
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.strokeRect(...box);
  if (marked) context.setLineDash([8 * density, 4 * density]);
  context.lineWidth = (marked ? 3.5 : 2.2) * density;
  context.strokeStyle = marked ? "#fbbf24" : bright(colour);
  context.strokeRect(...box);
  context.setLineDash([]);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} colour
 * @param {number} density
 */
function label(context, text, x, y, colour, density) {
  const size = 12 * density;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const [width, height] = [context.measureText(text).width + size, size * 1.5];
  const left = Math.max(0, Math.min(x, context.canvas.width - width));
  const top = Math.max(0, y - height);
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(left, top, width, height, size / 4);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(text, left + size / 2, top + height / 2 + density / 2);
}

/** @param {number} value of a class: neighbours are far apart */
function hue(value) {
  return Math.round((value * 137.5 + 215) % 360);
}

/** @param {number} value */
function colourOf(value) {
  return `hsl(${hue(value)} 75% 31%)`;
}

/** @param {string} colour */
function bright(colour) {
  return colour.replace("75% 31%", "95% 62%");
}

/**
 * @param {string[]} names
 * @param {number} value
 */
export function nameOf(names, value) {
  const name = names[value] ?? `class ${value}`;
  return name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name;
}

/**
 * `3 objects: circle, square, square`.
 * @param {string[]} names
 * @param {Detections} found
 */
export function inWords(names, found) {
  const count = found.labels.length;
  if (!count) return "No objects";
  const listed = [...found.labels].slice(0, 12).map((value) => nameOf(names, value));
  const more = count > listed.length ? ` and ${count - listed.length} more` : "";
  return `${count} ${count === 1 ? "object" : "objects"}: ${listed.join(", ")}${more}`;
}
