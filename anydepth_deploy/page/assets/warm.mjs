// @ts-check
/**
 * Calls before anything counts: the browser compiles what runs often, and the first calls take up to
 * three times as long. All of that code runs at super, so that goes first; then each rung is
 * measured for a moment, which begins the curve.
 */

const MOST_CALLS = 60;
const MOST_MS = 5000;
const CALLS = 9;
const CALLS_MS = 5000;

/**
 * @param {import("./detector.mjs").Detector} detector
 * @param {import("./depths.mjs").Depths} depths
 * @param {object} options
 * @param {(told: string, part: number) => void} options.onProgress `part`: of the whole, 0 to 1
 * @param {(row: number, milliseconds: number) => void} options.onMeasured
 * @param {() => boolean} options.goOn
 */
export async function warmUp(detector, depths, { onProgress, onMeasured, goOn }) {
  const began = performance.now();
  for (let call = 0; call < MOST_CALLS && performance.now() - began < MOST_MS && goOn(); call++) {
    const [milliseconds] = await detector.warmUp(depths.super.row, { calls: 1 });
    const part = Math.max(call / MOST_CALLS, (performance.now() - began) / MOST_MS);
    onProgress(
      `Warming up, the browser is compiling: call ${call + 1} took ${milliseconds.toFixed(1)} ms.`,
      0.7 * Math.min(1, part),
    );
  }
  // Round by round: whatever else the device does meanwhile, it does to all rungs alike.
  const since = performance.now();
  for (let call = 0; call < CALLS && goOn(); call++) {
    if (call > 0 && performance.now() - since > CALLS_MS) break;
    for (const rung of depths.ladder) {
      const [milliseconds] = await detector.warmUp(rung.row, { calls: 1 });
      onMeasured(rung.row, milliseconds);
      if (!goOn()) return;
    }
    onProgress("Measuring each rung of the ladder.", 0.7 + (0.3 * (call + 1)) / CALLS);
  }
}
