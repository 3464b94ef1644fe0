// @ts-check
/**
 * What `page.json` says, and whether these modules can do it.
 *
 * `manifest` is the bundle's own `manifest.json`; the fields that numbers depend on are named here.
 */

/**
 * How a picture becomes the input of the network, as `Preprocess` of the Python package says it.
 * @typedef {object} Preprocess
 * @property {[number, number]} size height and width of the input in pixels
 * @property {"stretch" | "letterbox"} resize
 * @property {"bilinear"} interpolation
 * @property {boolean} antialias whether shrinking averages, as Pillow does, or samples, as OpenCV
 * @property {number} padding grey level around letterboxed pictures, 0 to 255
 * @property {"RGB"} channels
 * @property {number} scale
 * @property {[number, number, number]} mean
 * @property {[number, number, number]} std
 * @property {"NCHW"} layout
 */

/**
 * How predictions become detections, where the network leaves that to others.
 * @typedef {object} Suppression
 * @property {"graph" | "host" | "none"} where
 * @property {number} score_threshold
 * @property {number} iou_threshold
 */

/**
 * @typedef {object} DepthRow
 * @property {number} index what the graph's input `depth` takes
 * @property {string} depth
 * @property {number | null} level
 * @property {Record<string, number>} macs multiply-adds: `total`, and by part of the network
 */

/**
 * @typedef {object} Manifest
 * @property {string} family
 * @property {string[]} classes
 * @property {Preprocess} preprocess
 * @property {string[]} ladder
 * @property {DepthRow[]} depths
 * @property {Suppression | null} suppression
 * @property {number} max_detections
 */

/**
 * @typedef {object} Description
 * @property {number} schema_version
 * @property {string} model name of the gated graph's file, beside `page.json`
 * @property {Manifest} manifest
 */

/**
 * What has been found in one picture, best first.
 * @typedef {object} Detections
 * @property {Float32Array} boxes (N, 4): x1, y1, x2, y2
 * @property {Float32Array} scores (N), 0 to 1
 * @property {Int32Array} labels (N), indices into the manifest's `classes`
 */

/** Of `page.json` and `site.json`. */
const SCHEMA_VERSION = 1;

/**
 * Throw an `Error` with a sentence for people where the description asks for what is not known
 * here: a page must not show boxes that another program would not find.
 * @param {any} said what `page.json` holds
 * @returns {Description}
 */
export function checked(said) {
  const recipe = said?.manifest?.preprocess;
  if (typeof said?.model !== "string" || !Array.isArray(recipe?.size)) {
    throw new Error("page.json does not describe a network: write the page again.");
  }
  checkVersion("page.json", said);
  /** @type {[string, unknown, unknown[]][]} */
  const known = [
    ["resize", recipe.resize, ["stretch", "letterbox"]],
    ["interpolation", recipe.interpolation, ["bilinear"]],
    ["channels", recipe.channels, ["RGB"]],
    ["layout", recipe.layout, ["NCHW"]],
    ["suppression", said.manifest.suppression?.where ?? "graph", ["graph", "host"]],
  ];
  for (const [name, found, expected] of known) {
    if (!expected.includes(found)) {
      throw new Error(
        `This page cannot run the network: its ${name} is ${JSON.stringify(found)}, expected ` +
          `${expected.join(" or ")}.`,
      );
    }
  }
  return said;
}

/**
 * Throw an `Error` with a sentence for people for a file of another version.
 * @param {string} name of the file
 * @param {any} said what it holds
 */
export function checkVersion(name, said) {
  const found = said?.schema_version;
  if (found !== SCHEMA_VERSION) {
    throw new Error(
      `${name} is of another version than this page (schema_version ${JSON.stringify(found)}, ` +
        `expected ${SCHEMA_VERSION}): write the page again.`,
    );
  }
}
