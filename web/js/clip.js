// What a node that takes a clip shows of it: the file, to be played, and after a run the frames that were taken.

import "./report.js"; // adds its report first, so that the picture is below it
import { address, drawOnNodes } from "./on_node.js";

const DRAWN = "drawn clip";
const HEIGHT = 190;
const INSIDE = 170;

const STYLE = `
.aot-clip {
  box-sizing: border-box; width: 100%; height: 100%; min-height: ${INSIDE}px; display: flex; align-items: center;
  justify-content: center; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg);
  color: var(--descrip-text); font: 12px/1.35 sans-serif; text-align: center;
}
.aot-clip.aot-loose { width: auto; height: ${INSIDE}px; }
.aot-clip > img, .aot-clip > video { width: 100%; height: ${INSIDE}px; object-fit: contain; }
.aot-clip > p { margin: 0; padding: 6px 14px; }
`;

/** @param {string} text */
function words(text) {
  return Object.assign(document.createElement("p"), { textContent: text });
}

/**
 * "sub/clip.mp4 [output]" as the server's own view of files names it.
 * @param {string} name
 * @returns {AOT.File}
 */
function fileOf(name) {
  const [, path, type = "input"] = name.match(/^(.*?)(?: ?\[(input|output|temp)\])?$/s);
  const cut = path.lastIndexOf("/");
  return { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(0, cut)), type };
}

/** @implements {AOT.View} */
class Clip {
  /** @param {AOT.Node} node */
  constructor(node) {
    this.chooser = node.widgets.find((widget) => widget.name === "video");
    this.element = Object.assign(document.createElement("div"), { className: "aot-clip" });
    // The editor's own player would take its file for the drawn clip's too, and its place from the frames.
    node.hideOutputImages = true;
    node.isLoading = true;
    const { chooser } = this;
    const { callback } = chooser;
    chooser.callback = (...given) => {
      callback?.apply(chooser, given);
      this.look();
    };
  }

  leastHeight() {
    return HEIGHT;
  }

  mostHeight() {
    return HEIGHT;
  }

  /** Another clip than the one that is shown was chosen. */
  look() {
    const name = String(this.chooser.value ?? "");
    if (name === this.name) return;
    this.name = name;
    if (name === DRAWN || !name) {
      this.element.replaceChildren(words(name ? "A run draws the clip and shows its frames here." : "No clip is chosen."));
      return;
    }
    const player = document.createElement("video");
    Object.assign(player, { src: address(fileOf(name)), controls: true, muted: true, loop: true, playsInline: true });
    player.preload = "metadata";
    player.addEventListener("error", () => {
      if (player.isConnected) player.replaceWith(words("Not played here. A run shows the frames it takes."));
    });
    this.element.replaceChildren(player);
  }

  /** @param {AOT.Output} output */
  show({ aot_strip: strip }) {
    if (!strip || strip[0].filename === this.strip) return;
    this.strip = strip[0].filename;
    this.name = String(this.chooser.value ?? "");
    const picture = Object.assign(new Image(), { src: address(strip[0]), alt: "The frames that were taken, with their times" });
    this.element.replaceChildren(picture);
  }
}

drawOnNodes({
  name: "ComfyUI-AOT.clip",
  widget: "aot_clip",
  style: STYLE,
  drawsOn: ({ name, input }) => name.startsWith("AOT") && Boolean(input?.required?.video?.[1]?.video_upload),
  make: (node) => new Clip(node),
});
