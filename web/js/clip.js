// What a node that takes a clip shows of it: the file, to be played, and after a run the frames that were taken.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import "./aot.js"; // adds its report first, so that the picture is below it
import { mount, watchPage } from "./mounting.js";

const WIDGET = "aot_clip";
const DRAWN = "drawn clip";
const HEIGHT = 190;
const INSIDE = 170;

const STYLE = `
.aot-clip {
  box-sizing: border-box; width: 100%; height: 100%; min-height: ${INSIDE}px; display: flex; align-items: center;
  justify-content: center; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg);
  color: var(--descrip-text); font: 12px/1.35 sans-serif; text-align: center;
}
.aot-clip.aot-loose { height: ${INSIDE}px; }
.aot-clip > img, .aot-clip > video { width: 100%; height: ${INSIDE}px; object-fit: contain; }
.aot-clip > p { margin: 0; padding: 6px 14px; }
`;

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function words(text) {
  return element("p", { textContent: text });
}

function viewed(file) {
  return api.apiURL(`/view?${new URLSearchParams(file)}`);
}

// "sub/clip.mp4 [output]" as the server's own view of files names it.
function fileOf(name) {
  const [, path, type = "input"] = name.match(/^(.*?)(?: ?\[(input|output|temp)\])?$/s);
  const cut = path.lastIndexOf("/");
  return { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(0, cut)), type };
}

class Clip {
  constructor(chooser) {
    this.chooser = chooser;
    this.element = element("div", { className: "aot-clip" });
  }

  // Another clip than the one that is shown was chosen.
  look() {
    const name = String(this.chooser.value ?? "");
    if (name === this.name) return;
    this.name = name;
    if (name === DRAWN || !name) {
      this.element.replaceChildren(words(name ? "A run draws the clip and shows its frames here." : "No clip is chosen."));
      return;
    }
    const player = element("video", { src: viewed(fileOf(name)), controls: true, muted: true, loop: true });
    player.preload = "metadata";
    player.playsInline = true;
    player.addEventListener("error", () => {
      if (player.isConnected) player.replaceWith(words("Not played here. A run shows the frames it takes."));
    });
    this.element.replaceChildren(player);
  }

  show([file]) {
    this.name = String(this.chooser.value ?? "");
    this.element.replaceChildren(element("img", { src: viewed(file), alt: "The frames that were taken, with their times" }));
  }
}

function clipOf(node) {
  return node.widgets?.find((widget) => widget.name === WIDGET)?.clip;
}

function clipNodes() {
  return (app.graph?._nodes ?? []).filter(clipOf);
}

function addClip(node, chooser) {
  const clip = new Clip(chooser);
  // The editor's own player would take its file for the drawn clip's too, and its place from the frames.
  node.hideOutputImages = true;
  node.isLoading = true;
  const widget = node.addDOMWidget(WIDGET, WIDGET, clip.element, {
    serialize: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
    getValue: () => "",
    setValue: () => {},
    onDraw: () => clip.look(),
  });
  widget.serialize = false;
  widget.clip = clip;
  const { callback } = chooser;
  chooser.callback = function () {
    callback?.apply(this, arguments);
    clip.look();
  };
  const { onRemoved } = node;
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    clip.element.remove();
  };
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
}

app.registerExtension({
  name: "ComfyUI-AOT.clip",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    watchPage(() => {
      for (const node of clipNodes()) {
        mount(node, clipOf(node).element);
        clipOf(node).look();
      }
    });
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("AOT") || !nodeData.input?.required?.video?.[1]?.video_upload) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (output?.aot_strip) clipOf(this)?.show(output.aot_strip);
    };
    nodeType.aotTakesClips = true;
  },

  nodeCreated(node) {
    if (node.constructor.aotTakesClips) addClip(node, node.widgets.find((widget) => widget.name === "video"));
  },

  // What a workflow's nodes gave comes back when its tab is returned to, or a run is opened from the queue.
  onNodeOutputsUpdated(outputs) {
    for (const node of clipNodes()) if (outputs[node.id]?.aot_strip) clipOf(node).show(outputs[node.id].aot_strip);
  },
});
