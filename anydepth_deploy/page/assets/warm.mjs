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
 * @param {() => Promise<boolean>} options.mayCall awaited before each call: false ends it
 * @returns {Promise<boolean>} whether it was not ended
 */
export async function warmUp(detector, depths, { onProgress, onMeasured, mayCall }) {
  let spent = 0; // in calls: a pause between them warms nothing
  /** @param {number} row */
  async function called(row) {
    const began = performance.now();
    const [milliseconds] = await detector.warmUp(row, { calls: 1 });
    spent += performance.now() - began;
    return milliseconds;
  }
  for (let call = 0; call < MOST_CALLS && spent < MOST_MS; call++) {
    if (!(await mayCall())) return false;
    const milliseconds = await called(depths.super.row);
    onProgress(
      `Warming up, the browser is compiling: call ${call + 1} took ${milliseconds.toFixed(1)} ms.`,
      0.7 * Math.min(1, Math.max(call / MOST_CALLS, spent / MOST_MS)),
    );
  }
  // Round by round: whatever else the device does meanwhile, it does to all rungs alike.
  spent = 0;
  for (let call = 0; call < CALLS && (call === 0 || spent <= CALLS_MS); call++) {
    for (const rung of depths.ladder) {
      if (!(await mayCall())) return false;
      onMeasured(rung.row, await called(rung.row));
    }
    onProgress("Measuring each rung of the ladder.", 0.7 + (0.3 * (call + 1)) / CALLS);
  }
  return true;
}
