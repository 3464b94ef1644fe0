// @ts-check
/**
 * Pixels of a picture as its file has them: turned as its EXIF data say, but with neither colours
 * converted nor transparency mixed in, as `anydepth_deploy.pictures` decodes it.
 */

/** Pixels of a picture, at most: four bytes each. */
export const MOST_PIXELS = 50_000_000;

/**
 * The pixels of a picture: a file, the address of one, or the frame that a video shows.
 *
 * Rejects with an `Error` whose message is a sentence for people: what is no picture, cannot be
 * loaded, or has more than {@link MOST_PIXELS}.
 * @param {Blob | string | URL | HTMLVideoElement} source
 * @returns {Promise<ImageData>} RGBA
 */
export async function pixelsOf(source) {
  if (source instanceof HTMLVideoElement) {
    const { videoWidth: width, videoHeight: height } = source;
    if (!width || !height) throw new Error("The camera has no picture yet.");
    checkSize(width, height);
    return drawn(source, width, height);
  }
  const blob = source instanceof Blob ? source : await fetched(source);
  const { width, height } = await header(blob);
  checkSize(width, height);
  const bitmap = await decoded(blob);
  let pixels;
  try {
    pixels = drawn(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
  if (isOpaque(pixels)) return pixels;
  // A canvas multiplies colours by how opaque they are, and rounds: what is transparent is lost.
  return (await unmixed(blob, pixels)) ?? pixels;
}

/**
 * @param {string | URL} address
 * @returns {Promise<Blob>}
 */
async function fetched(address) {
  let response;
  try {
    response = await fetch(address, { credentials: "omit", referrerPolicy: "no-referrer" });
  } catch {
    throw new Error(
      `${address} cannot be loaded: there is no such address, or its server does not let other ` +
        "pages read its pictures. Save the picture and drop the file here.",
    );
  }
  if (!response.ok) {
    throw new Error(`${address} cannot be loaded: its server says ${response.status}.`);
  }
  return response.blob();
}

/**
 * Width and height as the file's header says, before its pixels are decoded.
 * @param {Blob} blob
 * @returns {Promise<{width: number, height: number}>}
 */
async function header(blob) {
  const address = URL.createObjectURL(blob);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(noPicture());
      image.src = address;
    });
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    URL.revokeObjectURL(address);
  }
}

function noPicture() {
  return new Error("This is no picture that the browser can read: use a JPEG, PNG or WebP file.");
}

/**
 * @param {number} width
 * @param {number} height
 */
function checkSize(width, height) {
  if (width * height > MOST_PIXELS) {
    throw new Error(
      `This picture has ${width} x ${height} pixels, more than ${MOST_PIXELS / 1e6} million: ` +
        "make it smaller.",
    );
  }
}

/** @param {Blob} blob */
async function decoded(blob) {
  try {
    return await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
    });
  } catch {
    throw noPicture();
  }
}

/**
 * @param {CanvasImageSource} source
 * @param {number} width
 * @param {number} height
 * @returns {ImageData}
 */
function drawn(source, width, height) {
  // Not one on a graphics card, from which pixels come back slowly.
  const options = /** @type {const} */ ({ willReadFrequently: true });
  const context = new OffscreenCanvas(width, height).getContext("2d", options);
  if (!context) throw new Error("This browser has no memory left for the picture.");
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** @param {ImageData} pixels */
function isOpaque({ data }) {
  for (let at = 3; at < data.length; at += 4) if (data[at] !== 255) return false;
  return true;
}

/** How files begin that can be transparent: the place of some bytes, the bytes, the type. */
const BEGINNINGS = /** @type {const} */ ([
  [0, "\x89PNG", "image/png"],
  [8, "WEBP", "image/webp"],
  [0, "GIF8", "image/gif"],
]);

/**
 * The same pixels with colours as they are stored, by the browser's decoder without a canvas;
 * undefined where it has none.
 * @param {Blob} blob
 * @param {ImageData} mixed
 * @returns {Promise<ImageData | undefined>}
 */
async function unmixed(blob, { width, height }) {
  const Decoder = /** @type {any} */ (globalThis).ImageDecoder;
  const begin = String.fromCharCode(...new Uint8Array(await blob.slice(0, 16).arrayBuffer()));
  const type = BEGINNINGS.find(([at, bytes]) => begin.startsWith(bytes, at))?.[2];
  if (!Decoder || !type) return undefined;
  const decoder = new Decoder({
    data: await blob.arrayBuffer(),
    type,
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  try {
    const { image: frame } = await decoder.decode();
    try {
      const found = new ImageData(width, height);
      if (frame.codedWidth !== width || frame.codedHeight !== height) return undefined;
      await frame.copyTo(found.data, { format: "RGBA" });
      return found;
    } finally {
      frame.close();
    }
  } catch {
    return undefined;
  } finally {
    decoder.close();
  }
}
