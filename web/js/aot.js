// Shows on a node what it reports: an answer as it is written and then its figures, or one line about what was done.

import { app } from "../../../scripts/app.js";

// The frontend writes what a running node streams into the widget of this name; without one it would add its own,
// and the answer would stand there twice.
const WIDGET = "$$node-text-preview";
const ANSWER = "AOTAnswer";

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
  const answers = node.comfyClass === ANSWER;
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
    // A node that gives pictures shows those instead of words.
    if (!node.outputs?.some(({ type }) => type === "IMAGE")) addReport(node);
  },
});
