// @ts-check
/** The slider over the ladder and a switch for each gate, which always show the same depth. */

import { shownMacs } from "./depths.mjs";
import { byId, element } from "./dom.mjs";

/** @typedef {import("./depths.mjs").Depths} Depths */
/** @typedef {import("./depths.mjs").Row} Row */

export class DepthControls {
  /**
   * @param {Depths} depths
   * @param {(row: Row) => void} onChosen
   */
  constructor(depths, onChosen) {
    this.depths = depths;
    this.onChosen = onChosen;
    /** @type {Row} */
    this.row = depths.super;
    this.slider = byId("depth");
    this.slider.max = String(depths.ladder.length - 1);
    this.slider.disabled = depths.ladder.length === 1;
    this.slider.oninput = () => this.#choose(depths.ladder[Number(this.slider.value)]);
    byId("rungs").replaceChildren(
      ...depths.ladder.map((_, level) => element("option", { value: String(level) })),
    );
    /** @type {any[]} */
    this.gates = depths.gates.map((gate, place) => this.#control(gate, place));
    byId("gates").replaceChildren(...this.gates.map((input) => input.closest("label")));
    this.show(this.row);
  }

  /**
   * Show a depth that was not chosen here.
   * @param {Row} row
   */
  show(row) {
    const { depths, slider } = this;
    this.row = row;
    slider.value = String(depths.nearest(row));
    const level = depths.level(row);
    const called = depths.called(row);
    const name = called === row.depth ? row.depth : `${called} (${row.depth})`;
    const where = level < 0 ? "not on the ladder" : `level ${level} of ${depths.ladder.length - 1}`;
    byId("depth-name").textContent = level < 0 ? `${name}, ${where}` : name;
    slider.setAttribute("aria-valuetext", `${name}, ${where}, ${shownMacs(row.macs)} multiply-adds`);
    for (const [place, input] of this.gates.entries()) {
      const gate = depths.gates[place];
      if (gate.layers) {
        input.value = String(row.settings[place]);
        for (const option of input.options) {
          option.disabled = !depths.changed(row, place, Number(option.value));
        }
      } else {
        input.checked = row.settings[place] === 0;
        // A combination that the network does not have cannot be chosen.
        const other = depths.changed(row, place, 1 - row.settings[place]);
        input.disabled = !other;
        input.closest("label").title = other ? "" : "The network has no depth with the other setting.";
      }
    }
  }

  /**
   * @param {import("./depths.mjs").Gate} gate
   * @param {number} place
   */
  #control(gate, place) {
    const input = gate.layers
      ? element("select", {}, ...gate.choices.map((layers) =>
          element("option", { value: String(layers) }, `${layers} of ${gate.layers} layers`)))
      : element("input", { type: "checkbox", role: "switch" });
    const setting = () => (gate.layers ? Number(input.value) : Number(!input.checked));
    input.addEventListener("change", () => {
      const row = this.depths.changed(this.row, place, setting());
      if (row) this.#choose(row);
      else this.show(this.row);
    });
    const name = element("span", {}, gate.name);
    const children = gate.layers ? [name, input] : [input, name];
    element("label", { class: gate.layers ? "field layers" : "switch" }, ...children);
    return input;
  }

  /** @param {Row} row */
  #choose(row) {
    this.show(row);
    this.onChosen(row);
  }
}
