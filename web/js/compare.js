// A slider between two token maps on the Compare node: the pointer or the arrow keys move the line between them.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { mount, watchPage } from "./mounting.js";

const NODE = "AOTCompare";
const WIDGET = "aot_maps";
const LEAST_HEIGHT = 260;
const LEAST_WIDTH = 420;
const STEP = 2;

const STYLE = `
.aot-slider {
  position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: 120px; overflow: hidden;
  border-radius: 6px; background: var(--comfy-input-bg); cursor: ew-resize; user-select: none; touch-action: none;
}
.aot-slider.aot-loose { height: ${LEAST_HEIGHT}px; }
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
    this.element.setAttribute("aria-valuemin", 0);
    this.element.setAttribute("aria-valuemax", 100);
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
    if (this.left.src === left && this.right.src === right) return;
    this.left.src = left;
    this.right.src = right;
  }

  moveTo(percent) {
    this.at = Math.min(100, Math.max(0, percent));
    this.element.style.setProperty("--at", `${this.at}%`);
    this.element.setAttribute("aria-valuenow", Math.round(this.at));
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

function sliderOf(node) {
  return node.widgets?.find((widget) => widget.name === WIDGET)?.slider;
}

function nodes() {
  return (app.graph?._nodes ?? []).filter((node) => node.comfyClass === NODE);
}

function addSlider(node) {
  const slider = new Slider();
  const widget = node.addDOMWidget(WIDGET, WIDGET, slider.element, {
    serialize: false,
    getMinHeight: () => LEAST_HEIGHT,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  widget.slider = slider;
  const { onRemoved } = node;
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    slider.element.remove();
  };
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, LEAST_WIDTH), Math.max(node.size[1], height)]);
  return slider;
}

function removeSlider(node) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (!widget) return;
  node.removeWidget(widget);
  widget.slider.element.remove();
}

function show(node, output) {
  const maps = output?.aot_maps;
  if (!maps) {
    removeSlider(node);
    return;
  }
  const slider = sliderOf(node) ?? addSlider(node);
  slider.load(...maps.map((file) => new URL(api.apiURL(`/view?${new URLSearchParams(file)}`), location).href));
  mountSlider(node);
}

function mountSlider(node) {
  const element = sliderOf(node)?.element;
  if (element) mount(node, element);
}

app.registerExtension({
  name: "ComfyUI-AOT.compare",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    watchPage(() => nodes().forEach(mountSlider));
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, output);
    };
  },

  // What a workflow's nodes gave comes back when its tab is returned to, or a run is opened from the queue.
  onNodeOutputsUpdated(outputs) {
    for (const node of nodes()) if (outputs[node.id]) show(node, outputs[node.id]);
  },
});
