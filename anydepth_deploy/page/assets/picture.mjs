// @ts-check
/**
 * Pixels of a picture as its file has them: turned as its EXIF data say, but with neither colours
 * converted nor transparency mixed in, as `anydepth_deploy.pictures` decodes it.
 */

import { takenOut, turned } from "./orientation.mjs";

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
  const { orientation, stored } = await takenOut(blob);
  const bitmap = await decoded(stored);
  try {
    const pixels = drawn(bitmap, bitmap.width, bitmap.height);
    // A canvas multiplies colours by how opaque they are, and rounds: some are lost.
    const exact = isOpaque(pixels) ? pixels : ((await unmixed(bitmap)) ?? pixels);
    return turned(exact, orientation);
  } finally {
    bitmap.close();
  }
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

/** @type {ImageBitmapOptions} */
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** @param {Blob} blob */
async function decoded(blob) {
  try {
    return await createImageBitmap(blob, AS_STORED);
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

/** Side of the parts in which pixels come back, which any graphics driver takes. */
const PART = 2048;

/**
 * The pixels of a picture with colours as they are stored, however transparent; undefined where the
 * browser has no WebGL. Textures are the one place where colours are not multiplied.
 * @param {ImageBitmap} bitmap
 * @returns {Promise<ImageData | undefined>}
 */
async function unmixed(bitmap) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) return undefined;
  const { width, height } = bitmap;
  const found = new ImageData(width, height);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.pixelStorei(gl.PACK_ROW_LENGTH, width);
  const whole = new Uint8Array(found.data.buffer);
  for (let top = 0; top < height; top += PART) {
    for (let left = 0; left < width; left += PART) {
      const [wide, tall] = [Math.min(PART, width - left), Math.min(PART, height - top)];
      const part = await createImageBitmap(bitmap, left, top, wide, tall, AS_STORED);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, part);
      part.close();
      gl.readPixels(0, 0, wide, tall, gl.RGBA, gl.UNSIGNED_BYTE, whole, (top * width + left) * 4);
    }
  }
  const failed = gl.getError() !== gl.NO_ERROR || gl.isContextLost();
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // there are few of them
  return failed ? undefined : found;
}
