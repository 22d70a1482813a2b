// The editor keeps the value of a node's upload button after those of all inputs. In a file from before the node's
// newest inputs it lies where the first of these would be: it is taken out, and they have their defaults.

import { app } from "../../../scripts/app.js";

const NAME = "upload";
const STORED = "image"; // of videos too

/**
 * @param {AOT.Node} node
 * @param {unknown} values
 */
function isOlder(node, values) {
  const kept = (node.widgets ?? []).filter((widget) => widget.serialize !== false);
  const button = kept.findIndex((widget) => widget.name === NAME);
  return Array.isArray(values) && values.length > 1 && values.length <= button && values.at(-1) === STORED;
}

app.registerExtension({
  name: "ComfyUI-AOT.upload",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("AOT")) return;
    const { configure } = nodeType.prototype;
    nodeType.prototype.configure = function (saved) {
      const values = saved.widgets_values;
      const ours = /** @type {AOT.Node} */ (/** @type {unknown} */ (this));
      configure.call(this, isOlder(ours, values) ? { ...saved, widgets_values: values?.slice(0, -1) } : saved);
    };
  },
});
