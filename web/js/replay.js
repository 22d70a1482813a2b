// Brings back what nodes gave, where the server does not send it again: to nodes that it did not run, as it had their
// results, and to a page that was loaded anew. ComfyUI's history has it; nothing is written into the workflow.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeOfRun, workflow } from "./on_node.js";

// Where the browser keeps, for this tab of it, the last run of every workflow that had something to do.
const RUNS = "ComfyUI-AOT.runs";

/** @param {string} a @param {string} b */
function inOrder(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

/**
 * Notes which part of a node was told of. Newer servers tell of parts that they kept after those that ran.
 * @param {string} node that expands
 * @param {string} part
 */
function notePart(node, part) {
  if (part === node) return;
  const last = parts.get(node);
  if (last && inOrder(part, last) < 0) silent.add(node);
  else parts.set(node, part);
}

/** @returns {Record<string, string>} the id of a run by that of a workflow */
function runs() {
  return JSON.parse(sessionStorage.getItem(RUNS) ?? "{}");
}

/**
 * A run's entry in ComfyUI's history, which is written just after the run's last message is sent.
 * @param {string} run its id
 */
async function entryOf(run) {
  for (let attempt = 0; attempt < 20; attempt++) {
    const entry = (await (await api.fetchApi(`/history/${run}`)).json())[run];
    if (entry) return entry;
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

/**
 * Tells the editor what our nodes gave in a run, as the server does when a node has run.
 * @param {string} run its id
 * @param {(node: string) => boolean} wanted by the node's id in the run
 */
async function replay(run, wanted) {
  const entry = await entryOf(run);
  // The server has been started anew since.
  if (!entry) return;
  const [, , nodes, { extra_pnginfo: info }] = entry.prompt;
  if (info?.workflow?.id !== workflow()?.id) return;
  // A node that expands shows what its parts give, the last of them at the end.
  const outputs = Object.entries(entry.outputs).sort(([a], [b]) => inOrder(a, b));
  for (const [node, output] of outputs) {
    // What comes from the cache may name a node of the workflow that it was made in: the parts' numbers tell better.
    const shownOn = node in nodes ? node : node.split(".")[0];
    if (!wanted(shownOn) || !nodes[shownOn]?.class_type.startsWith("AOT")) continue;
    api.dispatchCustomEvent("executed", { node, display_node: shownOn, prompt_id: run, output });
  }
}

// Of the page before it was loaded anew.
const earlier = runs();
// Nodes that were not run in this run and have not been told of yet, and those that show what an earlier part gave.
const silent = new Set();
/** @type {Map<string, string>} of a node that expands, the part that it was told of last */
const parts = new Map();

api.addEventListener("execution_start", () => {
  silent.clear();
  parts.clear();
});
api.addEventListener("execution_cached", ({ detail }) => {
  for (const node of detail.nodes) if (nodeOfRun(`${node}`)?.comfyClass?.startsWith("AOT")) silent.add(`${node}`);
});
api.addEventListener("executed", ({ detail }) => {
  if (!detail.output) return;
  const cached = silent.delete(`${detail.node}`);
  notePart(`${detail.display_node}`, `${detail.node}`);
  const { id } = workflow();
  delete earlier[id];
  if (!cached || !runs()[id]) sessionStorage.setItem(RUNS, JSON.stringify({ ...runs(), [id]: detail.prompt_id }));
});
api.addEventListener("execution_success", ({ detail }) => {
  if (silent.size) void replay(detail.prompt_id, (node) => silent.has(node));
});

app.registerExtension({
  name: "ComfyUI-AOT.replay",

  afterConfigureGraph() {
    const { id } = workflow();
    const run = earlier[id];
    delete earlier[id];
    if (run) void replay(run, () => true);
  },
});
