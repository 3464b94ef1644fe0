// @ts-check
/** What `site.json` says: which networks and pictures a page has, and where ONNX Runtime Web is. */

import { checkVersion } from "./description.mjs";

/** @typedef {{file: string, name: string}} Sample */
/** @typedef {{runtime: string, models: {name: string, folder: string}[], samples: Sample[]}} Site */

/**
 * Rejects with an `Error` whose message is a sentence.
 * @returns {Promise<Site>}
 */
export async function readSite() {
  let said;
  try {
    const response = await fetch("site.json");
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    said = await response.json();
  } catch (error) {
    throw new Error(
      `site.json, which says what this page shows, cannot be read ` +
        `(${error instanceof Error ? error.message : error}): write the page again.`,
    );
  }
  if (said?.format !== "anydepth-deploy page") {
    throw new Error("site.json does not describe a page of anydepth-deploy: write the page again.");
  }
  checkVersion("site.json", said);
  if (![said.models, said.samples].every(Array.isArray) || !said.models.length) {
    throw new Error("site.json does not say what this page shows: write the page again.");
  }
  return said;
}
