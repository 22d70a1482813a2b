// What the Sweep node shows: its curves or its table at the node's full width. The editor's own picture would get what the
// two text fields above it leave, which in Nodes 2.0 is a strip.

import { address, drawOnNodes, fit } from "./on_node.js";

const EMPTY = "Run the workflow to see its curves.";
const LEAST = 60;
const MOST = 500;
const SIDES = 40;

const STYLE = `
.aot-sweep { position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: ${LEAST - 20}px; overflow: hidden; }
.aot-sweep:empty { padding: 8px 10px; border-radius: 6px; background: var(--comfy-input-bg); }
.aot-sweep:empty::before { content: "${EMPTY}"; font: 12px/1.35 sans-serif; color: var(--descrip-text); }
.aot-sweep > img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.aot-sweep.aot-loose { width: 640px; height: 240px; resize: both; }
`;

/** @implements {AOT.View} */
class Curves {
  /** @param {AOT.Node} node */
  constructor(node) {
    this.node = node;
    this.element = Object.assign(document.createElement("div"), { className: "aot-sweep" });
    this.picture = Object.assign(new Image(), { alt: "The sweep in curves or in a table", draggable: false });
    this.picture.addEventListener("load", () => {
      this.element.style.minHeight = `${this.leastHeight() - 20}px`;
      fit(node);
    });
  }

  /** What the picture takes at the node's width. */
  leastHeight() {
    const { naturalWidth, naturalHeight, parentElement } = this.picture;
    if (!parentElement || !naturalWidth) return LEAST;
    return Math.round(Math.min(MOST, ((this.node.size[0] - SIDES) * naturalHeight) / naturalWidth)) + 20;
  }

  /** @param {AOT.Output} output */
  show({ images: [picture] = [] }) {
    if (!picture) return;
    this.picture.src = address(picture);
    // The editor's menu opens, copies and saves it.
    this.node.imgs = [this.picture];
    this.element.replaceChildren(this.picture);
  }
}

drawOnNodes({
  name: "ComfyUI-AOT.sweep",
  widget: "aot_sweep",
  style: STYLE,
  leastWidth: 420,
  hidesPicture: true,
  drawsOn: ({ name }) => name === "AOTSweep",
  make: (node) => new Curves(node),
});
