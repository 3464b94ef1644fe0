// @ts-check
/** Work that is asked for more often than it can be done. */

/**
 * A function that runs `work`; called while that runs, it runs once more afterwards, however often
 * it was called. Its promise is settled when no run is left.
 * @param {() => Promise<void>} work
 * @returns {() => Promise<void>}
 */
export function merged(work) {
  let wanted = false;
  /** @type {Promise<void> | undefined} */
  let running;
  async function run() {
    try {
      while (wanted) {
        await undefined; // calls of the same moment are one
        wanted = false;
        await work();
      }
    } finally {
      running = undefined;
    }
  }
  return () => {
    wanted = true;
    running ??= run();
    return running;
  };
}
