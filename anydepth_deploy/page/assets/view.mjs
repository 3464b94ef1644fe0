// @ts-check
/** What the page shows: texts, figures, tables and canvases; nothing is decided here. */

import { draw, inWords, nameOf } from "./canvas.mjs";
import { drawCurve } from "./chart.mjs";
import { shownMacs } from "./depths.mjs";
import { byId, element } from "./dom.mjs";
import { boxOf } from "./missing.mjs";

/** @typedef {import("./depths.mjs").Depths} Depths */
/** @typedef {import("./depths.mjs").Row} Row */
/** @typedef {import("./detector.mjs").Found} Found */
/** @typedef {import("./measures.mjs").Measures} Measures */

/** Objects in the table at most. */
const ROWS = 100;

// --- what goes wrong

/** @param {unknown} problem */
export function fail(problem) {
  byId("failure-text").textContent = problem instanceof Error ? problem.message : String(problem);
  byId("failure").hidden = false;
}

export function clearFailure() {
  byId("failure").hidden = true;
}

/**
 * For screen readers.
 * @param {string} text
 */
export function tell(text) {
  byId("told").textContent = text;
}

// --- opening

/** Scripts run. */
export function reached() {
  byId("starting-text").textContent = "Loading the network…";
}

export function startOpening() {
  clearFailure();
  forget();
  byId("main").inert = true; // nothing there has a network
  byId("warming").textContent = "";
  byId("warming-progress").hidden = true;
  byId("starting-text").textContent = "Loading the network…";
  byId("starting").hidden = false;
  byId("progress").hidden = false;
  byId("progress").removeAttribute("value");
}

/** What was found by an earlier network. */
function forget() {
  for (const id of ["canvas", "super-canvas", "base-canvas"]) {
    const canvas = byId(id);
    canvas.width = canvas.width; // which empties it
    canvas.setAttribute("aria-label", "Nothing found yet");
  }
  for (const id of ["only-super", "only-base", "found-rows"]) byId(id).replaceChildren();
  for (const id of ["milliseconds", "macs", "objects"]) {
    byId(id).textContent = "–";
    byId(`${id}-super`).textContent = "";
  }
  byId("compare-told").textContent = "";
}

/** @param {import("./network.mjs").Progress} progress */
export function showOpening({ part, loaded, total }) {
  const size = `${(loaded / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} MB`;
  const fetching = part === "model" && !(total && loaded >= total);
  byId("starting-text").textContent = fetching
    ? `Loading the network: ${size}.`
    : "The network is loaded; ONNX Runtime Web is putting it together…";
  if (fetching && total) byId("progress").value = loaded / total;
  else byId("progress").removeAttribute("value");
}

/** @param {unknown} error */
export function failOpening(error) {
  byId("starting").hidden = true;
  byId("main").hidden = true;
  fail(error);
}

/**
 * @param {any} description
 * @param {number} threads
 */
export function endOpening(description, threads) {
  byId("starting").hidden = true;
  byId("main").hidden = false;
  byId("main").inert = false;
  const { name, family, depths, manifest } = description;
  const [height, width] = manifest.preprocess.size;
  byId("subtitle").textContent =
    `${name}: ${family}, ${depths.length} depths in one graph, input ${width} x ${height}. ` +
    "Drag the slider and watch boxes and milliseconds.";
  byId("footer").textContent =
    "Everything is computed in this browser: no picture leaves it. " +
    `ONNX Runtime Web, WebAssembly, ${threads === 1 ? "one thread" : `${threads} threads`}.`;
}

/**
 * @param {{name: string, folder: string}[]} models
 * @param {(folder: string) => void} onChosen
 * @returns {string} the folder of the one that is chosen
 */
export function showModels(models, onChosen) {
  const select = byId("model");
  select.replaceChildren(
    ...models.map(({ name, folder }) => element("option", { value: folder }, name)),
  );
  byId("model-choice").hidden = models.length < 2;
  select.addEventListener("change", () => onChosen(select.value));
  return select.value;
}

// --- warming up

/**
 * @param {string} text
 * @param {number} part
 */
export function showWarming(text, part) {
  byId("warming").textContent = text;
  byId("warming-progress").hidden = false;
  byId("warming-progress").value = part;
}

export function pauseWarming() {
  byId("warming").textContent = "Paused while pictures move: warming up goes on afterwards.";
}

/** @param {number} threads */
export function endWarming(threads) {
  byId("warming-progress").hidden = true;
  byId("warming").textContent =
    `Warm: milliseconds of the network alone, ${threads === 1 ? "one thread" : `${threads} threads`}, ` +
    "median of the latest calls. Filled points are rungs of the ladder.";
}

// --- figures

/** @param {number} value */
export function showThreshold(value) {
  byId("threshold-value").textContent = value.toFixed(2);
}

/**
 * @param {Depths} depths
 * @param {Row} row
 * @param {Found} found
 * @param {Measures} measures
 * @param {Found | undefined} whole what super finds in the same picture
 */
export function showFigures(depths, row, found, measures, whole) {
  const own = measures.median(row.row) ?? found.milliseconds.network;
  const most = measures.median(depths.super.row);
  byId("milliseconds").textContent = own.toFixed(1);
  byId("milliseconds-super").textContent =
    most === undefined ? "still warming up" : beside(row, depths, most.toFixed(1), own / most);
  byId("macs").textContent = shownMacs(row.macs);
  const { macs } = depths.super;
  byId("macs-super").textContent = beside(row, depths, shownMacs(macs), row.macs / macs);
  byId("objects").textContent = String(found.labels.length);
  byId("objects-super").textContent = whole ? `super ${whole.labels.length}` : "";
}

/**
 * @param {Row} row
 * @param {Depths} depths
 * @param {string} most what super has
 * @param {number} part of it
 */
function beside(row, depths, most, part) {
  return row.row === depths.super.row ? "this is super" : `super ${most}: ${Math.round(100 * part)} %`;
}

/**
 * @param {number[]} shown when frames were shown
 * @param {import("./pilot.mjs").Pilot | undefined} pilot
 */
export function showRate(shown, pilot) {
  const told = byId("rate-told");
  if (!pilot) {
    told.textContent = "The slider moves by itself so that frames keep to the rate.";
    return;
  }
  if (shown.length < 5) return;
  const rate = (1000 * (shown.length - 1)) / (shown[shown.length - 1] - shown[0]);
  const { costs } = pilot.estimator;
  const least = 1000 / Math.min(...costs);
  const beyond = pilot.target < Math.min(...costs);
  told.textContent =
    `Now ${rate.toFixed(1)} frames a second.` +
    (beyond ? ` More than this device can: base makes ${least.toFixed(1)}.` : "");
}

/**
 * @param {Depths} depths
 * @param {Row} now
 * @param {Measures} measures
 */
export function showCurve(depths, now, measures) {
  const points = measures.rows.map((index) => {
    const row = depths.rows[index];
    return {
      name: depths.called(row),
      macs: row.macs,
      milliseconds: /** @type {number} */ (measures.median(index)),
      rung: depths.level(row) >= 0,
      now: row.row === now.row,
    };
  });
  drawCurve(byId("curve"), points);
}

// --- pictures

/** @param {boolean} on asked for, or open */
export function showCamera(on) {
  byId("camera").setAttribute("aria-pressed", String(on));
}

/** CSS pixels that a picture may be tall. */
function highest() {
  return Math.max(240, Math.min(560, (window.innerWidth < 900 ? 0.42 : 0.62) * window.innerHeight));
}

/**
 * @param {{bitmap: ImageBitmap, name: string}} picture
 * @param {Found} found
 * @param {string[]} names
 */
export function showFound({ bitmap, name }, found, names) {
  byId("hint").hidden = true;
  draw(byId("canvas"), bitmap, found, { names, highest: highest() });
  byId("canvas").setAttribute("aria-label", `${name}. ${inWords(names, found)}`);
  byId("caption").textContent = `${name}, ${bitmap.width} x ${bitmap.height}`;
  const rows = [...found.labels].slice(0, ROWS).map((label, place) => {
    const cells = [...boxOf(found, place)].map((value) => element("td", {}, value.toFixed(1)));
    const score = element("td", {}, found.scores[place].toFixed(3));
    return element("tr", {}, element("th", { scope: "row" }, nameOf(names, label)), score, ...cells);
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: "6" }, "None.")));
  byId("found-rows").replaceChildren(...rows);
}

/**
 * @param {{bitmap: ImageBitmap}} picture
 * @param {[Found, Found]} both of super and of base
 * @param {[Set<number>, Set<number>]} lacked places of those that the other lacks
 * @param {string[]} names
 */
export function showBoth({ bitmap }, both, lacked, names) {
  for (const [side, id] of ["super", "base"].entries()) {
    const canvas = byId(`${id}-canvas`);
    const [found, marked] = [both[side], lacked[side]];
    draw(canvas, bitmap, found, { names, highest: 0.7 * highest(), marked });
    canvas.setAttribute("aria-label", `${id}: ${inWords(names, found)}`);
    byId(`only-${id}`).replaceChildren(
      ...[...marked].map((place) => {
        const name = nameOf(names, found.labels[place]);
        return element("li", {}, `only ${id} finds: ${name}, ${found.scores[place].toFixed(2)}`);
      }),
    );
  }
  const count = lacked[0].size + lacked[1].size;
  byId("compare-told").textContent = count
    ? `${lacked[0].size} that base lacks, ${lacked[1].size} that super lacks; they are dashed and have a ▲.`
    : "Both find the same objects here.";
}
