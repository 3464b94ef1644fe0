// @ts-check
/** The curve of what was measured: milliseconds by multiply-adds, a point for each depth. */

import { drawing } from "./dom.mjs";
import { shownMacs } from "./depths.mjs";

/**
 * @typedef {object} Point
 * @property {string} name
 * @property {number} macs
 * @property {number} milliseconds
 * @property {boolean} rung whether the ladder names it
 * @property {boolean} now whether it is the depth of now
 */

const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 46, 18, 26, 42];

/**
 * @param {SVGElement} svg
 * @param {Point[]} points
 */
export function drawCurve(svg, points) {
  svg.replaceChildren();
  // As wide as its place, so that letters have their size on a phone, too.
  const width = Math.max(240, svg.clientWidth || 560);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("aria-label", told(points));
  if (!points.length) return;
  const sorted = [...points].sort((one, other) => one.macs - other.macs);
  const [least, most] = [sorted[0].macs, sorted[sorted.length - 1].macs];
  const spare = (most - least || most) * 0.08;
  const top = niceTop(Math.max(...points.map((point) => point.milliseconds)) * 1.08);
  const x = scaleOf(least - spare, most + spare, LEFT, width - RIGHT);
  const y = scaleOf(0, top, HEIGHT - BOTTOM, TOP);
  for (let step = 0; step <= 4; step++) {
    const value = (top * step) / 4;
    svg.append(
      drawing("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      drawing("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  svg.append(
    drawing("text", { x: LEFT - 38, y: 13 }, "milliseconds, median"),
    drawing("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "multiply-adds"),
  );
  for (const [point, anchor] of /** @type {[Point, string][]} */ ([
    [sorted[0], "start"],
    [sorted[sorted.length - 1], "end"],
  ])) {
    const place = { x: x(point.macs), y: HEIGHT - BOTTOM + 18, "text-anchor": anchor };
    if (least !== most || anchor === "end") svg.append(drawing("text", place, shownMacs(point.macs)));
  }
  const rungs = sorted.filter((point) => point.rung);
  const line = rungs.map((point) => `${x(point.macs)},${y(point.milliseconds)}`).join(" ");
  svg.append(drawing("polyline", { class: "line", points: line }));
  for (const point of sorted) {
    const [cx, cy] = [x(point.macs), y(point.milliseconds)];
    const title = `${point.name}: ${point.milliseconds.toFixed(1)} ms, ${shownMacs(point.macs)}`;
    const dot = { class: point.rung ? "point" : "other", cx, cy, r: point.rung ? 5 : 3.5 };
    svg.append(drawing("circle", dot, drawing("title", {}, title)));
    if (point.now) {
      svg.append(
        drawing("circle", { class: "now", cx, cy, r: 9 }),
        drawing("text", { class: "name", x: cx, y: cy - 15, "text-anchor": anchorOf(cx, width) },
          `${point.name} ${point.milliseconds.toFixed(1)} ms`),
      );
    }
  }
}

/** @param {Point[]} points */
function told(points) {
  if (!points.length) return "Nothing measured yet";
  const rungs = points.filter((point) => point.rung);
  const listed = rungs.map((point) => `${point.name} ${point.milliseconds.toFixed(1)} milliseconds`);
  return `Median of calls in this browser: ${listed.join(", ")}`;
}

/**
 * @param {number} place of a text, which must not leave the picture
 * @param {number} width
 */
function anchorOf(place, width) {
  return place < 130 ? "start" : place > width - 130 ? "end" : "middle";
}

/**
 * @param {number} from
 * @param {number} to
 * @param {number} first
 * @param {number} last
 */
function scaleOf(from, to, first, last) {
  return (/** @type {number} */ value) => first + ((value - from) / (to - from)) * (last - first);
}

/** @param {number} value the next one of 1, 2, 4, 5, 6, 8 and 10 times a power of ten */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return (/** @type {number} */ ([1, 2, 4, 5, 6, 8, 10].find((part) => part * power >= value))) * power;
}

/** @param {number} value */
function short(value) {
  return String(Number(value.toPrecision(3)));
}
