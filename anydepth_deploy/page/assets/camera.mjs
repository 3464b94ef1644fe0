// @ts-check
/** A camera: asked for, open, closed. */

export class Camera {
  /** @type {MediaStream | undefined} */
  #stream;
  #closed = false;
  /** Whether its pictures can be taken. */
  on = false;

  /**
   * @param {HTMLVideoElement} video that shows what it sees
   * @param {() => void} onLost it was unplugged, or is no longer allowed
   */
  constructor(video, onLost) {
    this.video = video;
    this.onLost = onLost;
  }

  /**
   * Ask for it, which may take as long as a person thinks about it. Closed meanwhile, it stays off.
   * Rejects with an `Error` whose message is a sentence.
   */
  async open() {
    const stream = await asked();
    if (this.#closed) {
      stop(stream);
      return;
    }
    this.#stream = stream;
    for (const track of stream.getTracks()) {
      track.addEventListener("ended", () => !this.#closed && this.onLost());
    }
    this.video.srcObject = stream;
    try {
      await this.video.play();
    } catch {
      if (this.#closed) return;
      this.close();
      throw new Error("The camera gives no pictures.");
    }
    this.on = !this.#closed;
  }

  close() {
    this.#closed = true;
    this.on = false;
    if (!this.#stream) return;
    stop(this.#stream);
    // Another one may have the video by now.
    if (this.video.srcObject === this.#stream) this.video.srcObject = null;
  }
}

async function asked() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This page may not use the camera: it must come from https or from this machine.");
  }
  try {
    const wanted = { facingMode: "environment", width: { ideal: 1280 } };
    return await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    if (name === "NotAllowedError") {
      throw new Error("The camera was not allowed: the browser can be asked again beside the address.");
    }
    if (name === "NotFoundError") throw new Error("There is no camera here.");
    throw new Error("The camera cannot be opened: another program may be using it.");
  }
}

/** @param {MediaStream} stream */
function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}
