// @ts-check
/** The picture of now: the one that was given last, or what a camera sees. */

import { Camera } from "./camera.mjs";
import { pixelsOf } from "./picture.mjs";

/**
 * @typedef {object} Picture
 * @property {ImageData} pixels
 * @property {ImageBitmap} bitmap
 * @property {string} name
 * @property {unknown} source where it comes from: all frames of a camera have the same
 */

export class Pictures {
  /** @type {Picture | undefined} */
  now;
  /** @type {Camera | undefined} asked for, or open */
  camera;
  /** Counts what was given: of two that are decoded at once, the later one counts. */
  #given = 0;
  /** What was given before the camera was asked for. */
  #before = 0;
  /** @type {Set<Picture>} that can be drawn */
  #held = new Set();

  /**
   * @param {HTMLVideoElement} video for the camera
   * @param {object} calls
   * @param {(name: string) => Promise<void>} calls.onPicture there is another one, or, without a name, the
   *   camera has begun
   * @param {(on: boolean) => void} calls.onCamera it was asked for, or has ended
   * @param {(problem: unknown) => void} calls.onFailure
   */
  constructor(video, { onPicture, onCamera, onFailure }) {
    this.video = video;
    this.onPicture = onPicture;
    this.onCamera = onCamera;
    this.onFailure = onFailure;
  }

  /** Whether somebody has given one, even if it is still being read. */
  get wanted() {
    return Boolean(this.now || this.#given || this.camera);
  }

  /** Whether the camera gives pictures. */
  get moving() {
    return Boolean(this.camera?.on);
  }

  /**
   * @param {Blob | string} source
   * @param {string} name
   */
  async load(source, name) {
    const given = ++this.#given;
    try {
      const pixels = await pixelsOf(source);
      const bitmap = await createImageBitmap(pixels);
      const isEarlier = given <= this.#before; // than the camera
      if (given !== this.#given || (isEarlier && this.moving)) {
        bitmap.close();
        return;
      }
      if (!isEarlier) this.endCamera();
      this.#take({ pixels, bitmap, name, source: given });
    } catch (error) {
      if (given === this.#given) this.onFailure(error);
      return;
    }
    await this.onPicture(name);
  }

  /** Ask for the camera. */
  async beginCamera() {
    const camera = new Camera(this.video, () => {
      this.endCamera();
      this.onFailure("The camera has gone: it was unplugged, or is no longer allowed.");
    });
    this.camera = camera;
    this.#before = this.#given;
    this.onCamera(true);
    try {
      await camera.open();
    } catch (error) {
      if (this.camera !== camera) return;
      this.endCamera();
      this.onFailure(error);
      return;
    }
    if (this.camera === camera) await this.onPicture("");
  }

  /** The last frame stays the picture of now. */
  endCamera() {
    if (!this.camera) return;
    this.camera.close();
    this.camera = undefined;
    this.onCamera(false);
  }

  /**
   * Take what the camera sees now.
   * @param {() => boolean} wanted asked once more when it is there
   */
  async look(wanted) {
    const { camera } = this;
    if (!camera?.on) return;
    const pixels = await pixelsOf(this.video);
    const bitmap = await createImageBitmap(pixels);
    if (this.camera === camera && wanted()) {
      this.#take({ pixels, bitmap, name: "camera", source: camera });
    } else bitmap.close();
  }

  /**
   * Give back the memory of all but the picture of now and these: a camera makes many.
   * @param {(Picture | undefined)[]} used
   */
  keep(...used) {
    for (const picture of this.#held) {
      if (picture === this.now || used.includes(picture)) continue;
      picture.bitmap.close();
      this.#held.delete(picture);
    }
  }

  /** @param {Picture} picture */
  #take(picture) {
    this.now = picture;
    this.#held.add(picture);
  }
}
