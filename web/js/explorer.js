// Puts the Transport Explorer's view onto its node, in both of the editor's renderers, and keeps it there.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { Explorer, STYLE } from "./explorer/view.js";
import { mount, watchPage } from "./mounting.js";

const NODE = "AOTTransportExplorer";
const WIDGET = "aot_explorer";
const LEAST_HEIGHT = 420;
const LEAST_WIDTH = 460;

function explorerOf(node) {
  return node.widgets?.find((widget) => widget.name === WIDGET)?.explorer;
}

function explorerNodes() {
  return (app.graph?._nodes ?? []).filter(explorerOf);
}

function show(node, output) {
  const [sent] = output?.aot_transport ?? [];
  if (!sent) return;
  // The view shows more than the picture does: the node need not show that too.
  delete output.images;
  explorerOf(node).load(
    sent,
    output.aot_frames.map((file) => api.apiURL(`/view?${new URLSearchParams(file)}`)),
  );
}

app.registerExtension({
  name: "ComfyUI-AOT.explorer",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    watchPage(() => explorerNodes().forEach((node) => mount(node, explorerOf(node).element)));
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      show(this, output);
      onExecuted?.apply(this, arguments);
    };
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const explorer = new Explorer();
    const widget = node.addDOMWidget(WIDGET, WIDGET, explorer.element, {
      serialize: false,
      getMinHeight: () => LEAST_HEIGHT,
      getValue: () => "",
      setValue: () => {},
    });
    widget.serialize = false;
    widget.explorer = explorer;
    const { onRemoved } = node;
    node.onRemoved = function () {
      onRemoved?.apply(this, arguments);
      // The editor may go on using the place it stood in for another node of the same number.
      explorer.element.remove();
    };
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, LEAST_WIDTH), Math.max(node.size[1], height)]);
  },

  // What a workflow's nodes gave comes back when its tab is returned to, or a run is opened from the queue.
  onNodeOutputsUpdated(outputs) {
    for (const node of explorerNodes()) show(node, outputs[node.id]);
  },
});
