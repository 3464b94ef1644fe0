// @ts-check
/**
 * Which way up PNG and WebP files are, and turning their pixels.
 *
 * Browsers turn JPEG files by themselves. They do not turn every WebP, and where they turn a picture
 * that is transparent, the colours of what cannot be seen are lost.
 */

/** The number of the tag in EXIF data that says how a picture is to be turned, 1 to 8. */
const TAG = 0x0112;

/** The type of a number of 16 bits, which an orientation is. */
const SHORT = 3;

const PNG = "\x89PNG\r\n\x1a\n";

/**
 * The orientation, 1 to 8, of a PNG or WebP file, and the file without it, for browsers turn some
 * of them even where they are told not to; other files are left to the browser.
 * @param {Blob} blob
 * @returns {Promise<{orientation: number, stored: Blob}>}
 */
export async function takenOut(blob) {
  const view = new DataView(await blob.arrayBuffer());
  const png = text(view, 0, 8) === PNG;
  const webp = text(view, 0, 4) === "RIFF" && text(view, 8, 4) === "WEBP";
  const found = png ? chunk(view, 8, "eXIf", false) : webp ? chunk(view, 12, "EXIF", true) : null;
  if (!found) return { orientation: 1, stored: blob };
  const { begin, end } = found;
  const data = new DataView(view.buffer, begin + 8, (png ? end - 4 : end) - begin - 8);
  // Lengths of what is around it must stay right in a WebP: there it gets a name that is ignored.
  const instead = png ? [] : ["none", blob.slice(begin + 4, end)];
  const stored = new Blob([blob.slice(0, begin), ...instead, blob.slice(end)], { type: blob.type });
  return { orientation: tagged(data), stored };
}

/**
 * Where a chunk of the file is; both formats give each its length and a name of four letters.
 * @param {DataView} view
 * @param {number} begin of the first chunk
 * @param {string} name
 * @param {boolean} webp whose chunks begin with the name; those of PNG end with a checksum
 * @returns {{begin: number, end: number} | null}
 */
function chunk(view, begin, name, webp) {
  while (begin + 8 <= view.byteLength) {
    const length = view.getUint32(begin + (webp ? 4 : 0), webp);
    const end = begin + 8 + length + (webp ? 0 : 4);
    if (end > view.byteLength) return null;
    if (text(view, begin + (webp ? 0 : 4), 4) === name) return { begin, end };
    begin = webp ? end + (length % 2) : end;
  }
  return null;
}

/**
 * The orientation in the first directory of EXIF data, which are laid out as TIFF: the byte order,
 * 42, where the directory is; there how many entries, and 12 bytes for each: tag, type, how many
 * values, and the values.
 * @param {DataView} exif
 */
function tagged(exif) {
  const begin = text(exif, 0, 6) === "Exif\0\0" ? 6 : 0;
  const order = text(exif, begin, 2);
  if (order !== "II" && order !== "MM") return 1;
  const little = order === "II";
  try {
    const directory = begin + exif.getUint32(begin + 4, little);
    const count = exif.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      if (exif.getUint16(entry, little) !== TAG) continue;
      if (exif.getUint16(entry + 2, little) !== SHORT) return 1;
      const found = exif.getUint16(entry + 8, little);
      return found >= 1 && found <= 8 ? found : 1;
    }
  } catch {
    return 1; // the data end before
  }
  return 1;
}

/**
 * @param {DataView} view
 * @param {number} begin
 * @param {number} length
 */
function text(view, begin, length) {
  if (begin + length > view.byteLength) return "";
  return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + begin, length));
}

/**
 * The picture as viewers show it.
 * @param {ImageData} stored
 * @param {number} orientation 1 is upright, 5 to 8 exchange rows and columns
 * @returns {ImageData}
 */
export function turned(stored, orientation) {
  if (orientation === 1) return stored;
  const exchanged = orientation >= 5;
  const [height, width] = exchanged ? [stored.width, stored.height] : [stored.height, stored.width];
  const found = new ImageData(width, height);
  const from = new Uint32Array(stored.data.buffer);
  const to = new Uint32Array(found.data.buffer);
  const fromBottom = [3, 4, 6, 7].includes(orientation);
  const fromRight = [2, 3, 7, 8].includes(orientation);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [across, down] = exchanged ? [y, x] : [x, y];
      const row = fromBottom ? stored.height - 1 - down : down;
      const column = fromRight ? stored.width - 1 - across : across;
      to[at++] = from[row * stored.width + column];
    }
  }
  return found;
}
