// What the Compare node shows: its table, and under it a slider between two token maps, where both are linked. The
// pointer or the arrow keys move the line between them.

import { address, drawOnNodes, fit } from "./on_node.js";

const EMPTY = "Run the workflow to compare its answers.";
const LEAST = { empty: 60, table: 220, slider: 420 };
const STEP = 2;

const STYLE = `
.aot-compare {
  box-sizing: border-box; display: flex; flex-direction: column; gap: 8px; width: 100%; height: 100%;
  min-height: ${LEAST.empty - 20}px; overflow: hidden;
}
.aot-compare:not(:has(img)) { padding: 8px 10px; border-radius: 6px; background: var(--comfy-input-bg); }
.aot-compare:not(:has(img))::before { content: "${EMPTY}"; font: 12px/1.35 sans-serif; color: var(--descrip-text); }
.aot-compare:has(img) { min-height: ${LEAST.table - 20}px; }
.aot-compare:has(.aot-slider) { min-height: ${LEAST.slider - 20}px; }
.aot-compare > img { width: 100%; min-height: 120px; flex: 0 1 auto; object-fit: contain; }
.aot-compare > img:last-child { flex: 1 1 0; }
.aot-compare.aot-loose { width: 640px; height: 560px; resize: both; }
.aot-slider {
  position: relative; box-sizing: border-box; flex: 1 1 0; min-height: 220px; overflow: hidden;
  border-radius: 6px; background: var(--comfy-input-bg); cursor: ew-resize; user-select: none; touch-action: none;
}
.aot-slider:focus-visible { outline: 2px solid var(--p-primary-color, currentcolor); outline-offset: -2px; }
.aot-slider img {
  position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; pointer-events: none;
}
.aot-slider img:first-of-type { clip-path: inset(0 0 0 var(--at)); }
.aot-slider img:last-of-type { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.aot-slider i {
  position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none;
}
.aot-slider b {
  position: absolute; top: 6px; padding: 1px 7px; border-radius: 4px; font: 600 12px/1.4 sans-serif;
  color: #fff; background: #000a; pointer-events: none;
}
.aot-slider b:first-of-type { left: 6px; }
.aot-slider b:last-of-type { right: 6px; }
`;

function child(parent, tag, properties = {}) {
  return parent.appendChild(Object.assign(document.createElement(tag), properties));
}

class Slider {
  constructor() {
    this.element = Object.assign(document.createElement("div"), { className: "aot-slider", tabIndex: 0 });
    this.element.setAttribute("role", "slider");
    this.element.setAttribute("aria-label", "Line between map_a, on its left, and map_b, on its right, in per cent");
    this.element.setAttribute("aria-valuemin", "0");
    this.element.setAttribute("aria-valuemax", "100");
    this.right = child(this.element, "img", { alt: "map_b", draggable: false });
    this.left = child(this.element, "img", { alt: "map_a", draggable: false });
    child(this.element, "i");
    child(this.element, "b", { textContent: "A" });
    child(this.element, "b", { textContent: "B" });
    this.moveTo(50);
    this.element.addEventListener("pointermove", (event) => this.follow(event));
    this.element.addEventListener("pointerdown", (event) => {
      // What is pressed here moves the line, not the node.
      event.stopPropagation();
      this.element.focus({ preventScroll: true });
      this.follow(event);
    });
    this.element.addEventListener("keydown", (event) => this.press(event));
  }

  load(left, right) {
    this.left.src = left;
    this.right.src = right;
  }

  moveTo(percent) {
    this.at = Math.min(100, Math.max(0, percent));
    this.element.style.setProperty("--at", `${this.at}%`);
    this.element.setAttribute("aria-valuenow", `${Math.round(this.at)}`);
  }

  follow(event) {
    const box = this.element.getBoundingClientRect();
    this.moveTo((100 * (event.clientX - box.left)) / box.width);
  }

  press(event) {
    const places = {
      ArrowLeft: this.at - STEP,
      ArrowDown: this.at - STEP,
      ArrowRight: this.at + STEP,
      ArrowUp: this.at + STEP,
      Home: 0,
      End: 100,
    };
    if (!(event.key in places)) return;
    // The editor would move the node.
    event.preventDefault();
    event.stopPropagation();
    this.moveTo(places[event.key]);
  }
}

/** @implements {AOT.View} */
class Comparison {
  /** @param {AOT.Node} node */
  constructor(node) {
    this.node = node;
    this.element = Object.assign(document.createElement("div"), { className: "aot-compare" });
    this.table = Object.assign(new Image(), { alt: "The answers in a table", draggable: false });
    this.slider = new Slider();
  }

  leastHeight() {
    if (this.slider.element.parentElement) return LEAST.slider;
    return this.table.parentElement ? LEAST.table : LEAST.empty;
  }

  /** @param {AOT.Output} output */
  show({ images: [table] = [], aot_maps: maps }) {
    if (!table) return;
    this.table.src = address(table);
    // The editor's menu opens, copies and saves it.
    this.node.imgs = [this.table];
    if (maps) {
      const [left, right] = maps.map(address);
      this.slider.load(left, right);
    }
    this.element.replaceChildren(this.table, ...(maps ? [this.slider.element] : []));
    fit(this.node);
  }
}

drawOnNodes({
  name: "ComfyUI-AOT.compare",
  widget: "aot_comparison",
  style: STYLE,
  leastWidth: 420,
  hidesPicture: true,
  drawsOn: ({ name }) => name === "AOTCompare",
  make: (node) => new Comparison(node),
});
