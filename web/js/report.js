// Shows on a node what it reports: an answer as it is written and then its figures, or one line about what was done.

import { api } from "../../../scripts/api.js";
import { allNodes, drawOnNodes, nodeOfRun, widgetOf } from "./on_node.js";

const WIDGET = "aot_report";
const ANSWERS = ["AOTAnswer", "AOTAskVideo"];
// Nodes that name every clip of a folder.
const LISTS = ["AOTVideoFolder", "AOTSaveCaptions"];

// The editor writes what a running node streams into the widget of this name, and adds one where there is none.
const STREAMED = "$$node-text-preview";

const STYLE = `
.aot-report {
  box-sizing: border-box; padding: 6px 10px; border-radius: 6px; overflow-y: auto; min-height: 46px;
  background: var(--comfy-input-bg); color: var(--input-text);
  font: 12px/1.35 sans-serif; white-space: pre-wrap; overflow-wrap: anywhere; user-select: text;
}
.aot-report:empty::before { content: attr(data-empty); color: var(--descrip-text); }
.aot-report.aot-list { contain: size; }
.aot-report.aot-answer { display: flex; flex-direction: column; min-height: 130px; }
.aot-report.aot-answer > :first-child { font-size: 15px; overflow-y: auto; min-height: 21px; }
.aot-report > :nth-child(2) {
  flex: none; margin-top: 6px; padding-top: 6px; border-top: 1px solid var(--border-color); color: var(--descrip-text);
}
.aot-report.aot-list.aot-answer > :first-child { flex: 1 0 60%; }
.aot-report.aot-list.aot-answer > :nth-child(2) { flex: 0 1 auto; overflow-y: auto; min-height: 0; }
`;

/** @param {string} text */
function paragraph(text) {
  const element = document.createElement("div");
  element.textContent = text;
  return element;
}

/**
 * What Answer shows of a list of videos: all answers with their numbers, and the figures of the last.
 * @param {string[]} text an answer and its figures, of each video
 */
function ofAList(text) {
  const answers = text.filter((_, place) => place % 2 === 0);
  return [answers.map((each, place) => `${place + 1}. ${each}`).join("\n"), text[text.length - 1]];
}

/**
 * @param {AOT.Node} node
 * @returns {AOT.View}
 */
function report(node) {
  const answers = ANSWERS.includes(node.comfyClass);
  const list = LISTS.includes(node.comfyClass);
  const element = document.createElement("div");
  element.className = answers ? "aot-report aot-answer" : "aot-report";
  element.dataset.empty = answers ? "The answer appears here." : "Nothing to report yet.";
  element.setAttribute("role", "status");
  return {
    element,
    leastHeight: () => (answers ? 150 : list ? 110 : 66),
    mostHeight: () => (answers || list ? undefined : 66),
    show({ text }) {
      if (!text) return;
      element.classList.toggle("aot-list", list || text.length > 2);
      const shown = node.comfyClass === "AOTAnswer" && text.length > 2 ? ofAList(text) : text;
      element.replaceChildren(...shown.map(paragraph));
    },
  };
}

/**
 * Takes the place of the editor's own preview, which would show what is streamed a second time.
 * @param {AOT.Node} node
 */
function takePlace(node) {
  if (widgetOf(node, STREAMED)) return;
  const [width, height] = node.size;
  const widget = node.addWidget("text", STREAMED, "", () => {}, { hidden: true, serialize: false });
  widget.hidden = true;
  widget.serialize = false;
  widget.computeSize = () => [0, -4];
  // The node has grown for it.
  node.setSize([width, height]);
}

drawOnNodes({
  name: "ComfyUI-AOT.report",
  widget: WIDGET,
  style: STYLE,
  // A node that gives pictures or a video shows those instead of words.
  drawsOn: ({ name, output }) => name.startsWith("AOT") && !output.includes("IMAGE") && !output.includes("VIDEO"),
  make: report,
});

// Newer versions take the place away when a run ends.
api.addEventListener("execution_start", () => {
  for (const node of allNodes()) if (widgetOf(node, WIDGET)) takePlace(node);
});

api.addEventListener("progress_text", ({ detail: { nodeId, text } }) => {
  const node = nodeOfRun(`${nodeId}`);
  if (node) widgetOf(node, WIDGET)?.view.show({ text: [text] });
});
