// Says on a node of ours why it failed or was refused. Newer versions of the editor keep the line behind two clicks.

import { app } from "../../../scripts/app.js";
import { allNodes, nodeOfRun, viewsOf, watchPage } from "./on_node.js";

const LONGEST = 400;

const STYLE = `
[data-aot-error] { overflow-y: auto; padding: 6px 10px; border-radius: 6px; background: var(--comfy-input-bg); }
[data-aot-error] > * { display: none !important; }
[data-aot-error]::before, [data-aot-error]:empty::before {
  content: attr(data-aot-error) !important; color: color-mix(in srgb, var(--error-text), var(--input-text) 35%) !important;
  font: 12px/1.35 sans-serif; white-space: pre-wrap; overflow-wrap: anywhere;
}
/* Over what is below it, rather than cut. */
.aot-report[data-aot-error] { position: relative; z-index: 1; height: max-content !important; min-height: 100%; }
`;

/** @param {string} line */
function readable(line) {
  const whole = line.replace(/^\w+Error: /, "").trim();
  return whole.length > LONGEST ? `${whole.slice(0, LONGEST)} ...` : whole;
}

/**
 * The line of a node that was refused before the run. Ours come as "input - line".
 * @param {AOT.Refusal} refusal
 */
function refused({ type, message, details }) {
  return type === "custom_validation_failed" ? details.replace(/^\w+ - /, "") : `${message}: ${details}`;
}

/** @returns {Map<AOT.Node | undefined, string>} */
function lines() {
  const found = new Map();
  for (const [id, { errors }] of Object.entries(app.lastNodeErrors ?? {})) {
    if (errors.length) found.set(nodeOfRun(id), readable(refused(errors[0])));
  }
  const failure = app.lastExecutionError;
  if (failure) found.set(nodeOfRun(`${failure.node_id}`), readable(failure.exception_message));
  return found;
}

function show() {
  const found = lines();
  for (const node of allNodes()) {
    // The first is a report, where a node has one.
    const element = viewsOf(node)[0]?.element;
    if (!element) continue;
    const line = found.get(node);
    if (line === element.dataset.aotError) continue;
    if (line) element.dataset.aotError = line;
    else delete element.dataset.aotError;
  }
}

app.registerExtension({
  name: "ComfyUI-AOT.errors",

  setup() {
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
    watchPage(show);
  },
});
