// Shows on a node what it reports: an answer as it is written and then its figures, or one line about what was done.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

// The frontend writes what a running node streams into the widget of this name, and adds one where there is none. Up to
// 1.53 that one stays, so that ours has to bear the name. From 1.54 on whatever bears it is removed when a run ends.
const STREAMED = "$$node-text-preview";
const [MAJOR, MINOR] = (window.__COMFYUI_FRONTEND_VERSION__ ?? "1.0").split(".").map(Number);
const REMOVED_AT_THE_END = MAJOR > 1 || MINOR >= 54;
const WIDGET = REMOVED_AT_THE_END ? "aot_report" : STREAMED;
const ANSWERING = new Set(["AOTAnswer", "AOTAskVideo"]);

const STYLE = `
.aot-report {
  box-sizing: border-box; padding: 6px 10px; border-radius: 6px; overflow-y: auto;
  background: var(--comfy-input-bg); color: var(--input-text);
  font: 12px/1.35 sans-serif; white-space: pre-wrap; overflow-wrap: anywhere; user-select: text;
}
.aot-report:empty::before { content: attr(data-empty); color: var(--descrip-text); }
.aot-report.aot-answer { display: flex; flex-direction: column; }
.aot-report.aot-answer > :first-child { font-size: 15px; overflow-y: auto; min-height: 21px; }
.aot-report > :nth-child(2) {
  flex: none; margin-top: 6px; padding-top: 6px; border-top: 1px solid var(--border-color); color: var(--descrip-text);
}
`;

function paragraph(text) {
  const element = document.createElement("div");
  element.textContent = text;
  return element;
}

// What the node reported last, as the frontend keeps it for an open workflow whose tab is left and returned to.
function remembered(node) {
  return app.nodeOutputs?.[node.id]?.text;
}

function addReport(node) {
  const answers = ANSWERING.has(node.comfyClass);
  const element = document.createElement("div");
  element.className = answers ? "aot-report aot-answer" : "aot-report";
  element.dataset.empty = answers ? "The answer appears here." : "Nothing to report yet.";
  element.setAttribute("role", "status");

  const widget = node.addDOMWidget(WIDGET, "aot_report", element, {
    serialize: false,
    getMinHeight: () => (answers ? 150 : 66),
    getMaxHeight: () => (answers ? undefined : 66),
    getValue: () => element.innerText,
    setValue: (text) => element.replaceChildren(...[text].flat().map(paragraph)),
    onDraw: () => {
      if (!element.firstChild && remembered(node)) widget.value = remembered(node);
    },
  });
  widget.serialize = false;

  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
}

// Takes what is streamed, without a place of its own, and passes it to the report: until the run ends.
function passOn(node) {
  const report = node.widgets?.find((widget) => widget.name === WIDGET);
  if (!report || node.widgets.some((widget) => widget.name === STREAMED)) return;
  const widget = node.addWidget("text", STREAMED, "", () => {}, { hidden: true, serialize: false });
  widget.hidden = true;
  widget.serialize = false;
  widget.computeSize = () => [0, -4];
  Object.defineProperty(widget, "value", { get: () => "", set: (text) => text && (report.value = text) });
}

// The frontend reads which inputs are advanced, looks elsewhere for it when it draws, and leaves gaps where they were.
function hideAdvanced(node) {
  for (const widget of node.widgets ?? []) {
    if (!widget.options?.advanced) continue;
    widget.advanced = true;
    widget.computeSize = (width) => [width, node.showAdvanced ? LiteGraph.NODE_WIDGET_HEIGHT : -4];
  }
}

app.registerExtension({
  name: "ComfyUI-AOT.report",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    if (!REMOVED_AT_THE_END) return;
    api.addEventListener("execution_start", () => {
      for (const node of app.graph._nodes) if (ANSWERING.has(node.comfyClass)) passOn(node);
    });
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("AOT")) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const report = this.widgets?.find((widget) => widget.name === WIDGET);
      if (report && output?.text) report.value = output.text;
    };
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("AOT")) return;
    hideAdvanced(node);
    // A node that gives pictures or a video shows those instead of words.
    if (!node.outputs?.some(({ type }) => type === "IMAGE" || type === "VIDEO")) addReport(node);
  },
});
