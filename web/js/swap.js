// "Swap Stage" in a stage's menu: another stage in its place, with its links and the settings that both have. Those
// on frames are swapped for others on frames; those inside the tower, on tokens and inside the LLM likewise.

import { app } from "../../../scripts/app.js";

const CATEGORIES = ["AOT/frames", "AOT/tower", "AOT/reduction", "AOT/LLM"];
const LABEL = "Swap Stage";
const stages = new Map();

// Whether a new widget takes a value: one of its choices, or a number within its bounds. A retention of 0 is none, and
// not for a stage that has one by itself.
function takes({ name, options, value: own }, value) {
  if (Array.isArray(options?.values)) return options.values.includes(value);
  if (typeof value !== "number") return true;
  if (name === "retention" && value === 0 && own !== 0) return false;
  return value >= (options?.min ?? value) && value <= (options?.max ?? value);
}

function keepSettings(from, to) {
  for (const widget of to.widgets ?? []) {
    const same = from.widgets?.find((each) => each.name === widget.name && each.type === widget.type);
    if (same && widget.serialize !== false && takes(widget, same.value)) widget.value = same.value;
  }
}

function keepLinks(from, to) {
  const { graph } = from;
  // Of a graph that is a subgraph some links lead to its own inputs and outputs.
  for (const { origin_id: id, origin_slot: slot, target_id: target, target_slot: at } of [...graph.links.values()]) {
    if (target === from.id) {
      const socket = to.findInputSlot(from.inputs[at].name);
      if (socket < 0) continue;
      const origin = graph.getNodeById(id);
      if (origin) origin.connect(slot, to, socket);
      else graph.inputNode.slots[slot].connect(to.inputs[socket], to);
    } else if (id === from.id) {
      const next = graph.getNodeById(target);
      if (next) to.connect(slot, next, at);
      else graph.outputNode.slots[at].connect(to.outputs[slot], to);
      // An Answer that bears its stage's name goes by the new one's.
      if (next?.title === from.title) next.title = to.title;
    }
  }
}

// One step to undo: newer menus end before what was chosen in them is done, so nobody else would note it.
function swap(node, type) {
  const [{ canvas }, { graph }] = [app, node];
  canvas.emitBeforeChange();
  graph.beforeChange();
  try {
    put(node, type);
  } finally {
    graph.afterChange();
    canvas.emitAfterChange();
  }
}

function put(node, type) {
  const { graph } = node;
  const made = LiteGraph.createNode(type);
  for (const name of ["color", "bgcolor", "mode"]) if (node[name] !== undefined) made[name] = node[name];
  made.pos = [node.pos[0], node.pos[1]];
  graph.add(made);
  made.setSize([Math.max(node.size[0], made.size[0]), made.size[1]]);
  keepSettings(node, made);
  keepLinks(node, made);
  graph.remove(node);
  app.canvas.deselectAll();
  // The editor's toolbar goes where a node was when it was last drawn.
  requestAnimationFrame(() => app.canvas.selectNode(made));
}

function menu(node) {
  const { category } = stages.get(node.comfyClass);
  const options = [...stages]
    .filter(([type, each]) => type !== node.comfyClass && each.category === category)
    .map(([type, each]) => [type, each.title])
    .sort(([, a], [, b]) => a.localeCompare(b))
    .map(([type, content]) => ({ content, callback: () => swap(node, type) }));
  return options.length ? { content: LABEL, has_submenu: true, submenu: { options } } : null;
}

// The menu's items, with a line under them; none where no other stage acts at the same place.
function items(node) {
  const swaps = menu(node);
  return swaps ? [swaps, null] : [];
}

app.registerExtension({
  name: "ComfyUI-AOT.swap",

  beforeRegisterNodeDef(nodeType, nodeData) {
    const { name, display_name: title, category } = nodeData;
    if (!CATEGORIES.includes(category)) return;
    stages.set(name, { title, category });
    // Frontends that do not ask extensions for menu items yet ask the node's class.
    if (app.collectNodeMenuItems) return;
    const { getExtraMenuOptions } = nodeType.prototype;
    nodeType.prototype.getExtraMenuOptions = function (canvas, options) {
      const given = getExtraMenuOptions?.call(this, canvas, options);
      options.unshift(...items(this));
      return given;
    };
  },

  getNodeMenuItems(node) {
    return stages.has(node.comfyClass) ? items(node) : [];
  },
});
