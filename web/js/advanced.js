// Hides a node's advanced settings until "Show Advanced" is chosen. The editor reads which settings are advanced; on
// its canvas it looks elsewhere for it when it draws, and some versions leave gaps where hidden settings were.

import { app } from "../../../scripts/app.js";

/** @param {AOT.Node} node */
function hideAdvanced(node) {
  const widgets = /** @type {AOT.Widget[]} */ (node.widgets ?? []);
  const advanced = widgets.filter(({ options }) => options?.advanced);
  for (const widget of advanced) {
    widget.advanced = true;
    const { computeLayoutSize } = widget;
    if (computeLayoutSize) {
      widget.computeLayoutSize = (of) =>
        node.showAdvanced ? computeLayoutSize.call(widget, of) : { minHeight: 0, maxHeight: 0, minWidth: 0 };
    } else {
      widget.computeSize = (width) => [width, node.showAdvanced ? LiteGraph.NODE_WIDGET_HEIGHT : -4];
    }
  }
  // A new node has room for all of them; one that is loaded gets its own size after this.
  if (advanced.length) node.setSize([node.size[0], node.computeSize()[1]]);
}

app.registerExtension({
  name: "ComfyUI-AOT.advanced",

  /** @param {AOT.Node} node */
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("AOT")) hideAdvanced(node);
  },
});
