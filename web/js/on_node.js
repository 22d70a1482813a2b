// One way of drawing on a node: an element that stays on it, in both of the editor's renderers, and shows what the node
// gave.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

/**
 * What is drawn on all nodes of some kinds.
 * @typedef {object} Drawing
 * @property {string} name of the extension
 * @property {string} widget name of the widget that holds the element
 * @property {string} style CSS
 * @property {number} [leastWidth] of the node, in pixels
 * @property {boolean} [hidesPicture] the view shows what the node's picture does: the editor need not draw that as well
 * @property {(kind: AOT.NodeDef) => boolean} drawsOn
 * @property {(node: AOT.Node) => AOT.View} make
 */

/** The open workflow; none while the page is loading. */
export function workflow() {
  return app.rootGraph ?? app.graph;
}

/**
 * Every node of the open workflow, those inside subgraphs as well.
 * @returns {AOT.Node[]}
 */
export function allNodes() {
  const root = workflow();
  const nodes = root ? [root, ...root.subgraphs.values()].flatMap((graph) => graph.nodes) : [];
  return /** @type {AOT.Node[]} */ (nodes);
}

/**
 * The node that a run calls by this id: 12, or 5:12 for node 12 inside the subgraph that is node 5.
 * @param {string} id
 * @returns {AOT.Node | undefined}
 */
export function nodeOfRun(id) {
  const [last, ...path] = id.split(":").reverse();
  /** @param {AOT.Graph | undefined} graph @param {string} number */
  const at = (graph, number) => /** @type {AOT.Node | undefined} */ (graph?.getNodeById(number) ?? undefined);
  return at(path.reduceRight((graph, number) => at(graph, number)?.subgraph, workflow()), last);
}

/**
 * @param {AOT.Node} node
 * @param {string} name
 * @returns {AOT.Widget | undefined}
 */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/**
 * What we draw on a node, from its top.
 * @param {AOT.Node} node
 * @returns {AOT.View[]}
 */
export function viewsOf(node) {
  const widgets = /** @type {AOT.Widget[]} */ (node.widgets ?? []);
  return widgets.flatMap(({ view }) => (view ? [view] : []));
}

/**
 * What the node gave when it ran last, as the editor remembers it for an open workflow.
 * @param {AOT.Node} node
 * @returns {AOT.Output | undefined}
 */
function remembered(node) {
  return app.nodeOutputs?.[node.graph?.isRootGraph ? node.id : `${node.graph?.id}:${node.id}`];
}

/**
 * Where ComfyUI serves a file that a node gave.
 * @param {AOT.File} file
 */
export function address(file) {
  return api.apiURL(`/view?${new URLSearchParams({ ...file })}`);
}

// The first version of Nodes 2.0 leaves such widgets out, and does not know that a node hides its picture.
const LOOSE = `
.aot-loose { margin: 0 16px; }
[data-node-id]:has(.aot-loose.aot-picture) .image-preview { display: none; }
`;
document.head.append(Object.assign(document.createElement("style"), { textContent: LOOSE }));

/**
 * Has the editor draw on nodes.
 * @param {Drawing} drawing
 */
export function drawOnNodes(drawing) {
  const kinds = new Set();

  /** @param {AOT.Node} node @returns {AOT.View | undefined} */
  const viewOf = (node) => widgetOf(node, drawing.widget)?.view;

  const showRemembered = () => {
    for (const node of allNodes()) {
      const output = kinds.has(node.comfyClass) && remembered(node);
      if (output) viewOf(node)?.show(output);
    }
  };

  app.registerExtension({
    name: drawing.name,

    setup() {
      const style = document.createElement("style");
      style.textContent = drawing.style;
      document.head.append(style);
      watchPage(() => {
        for (const node of allNodes()) {
          const view = kinds.has(node.comfyClass) && viewOf(node);
          if (!view) continue;
          mount(node, view.element);
          view.look?.();
        }
      });
    },

    beforeRegisterNodeDef(nodeType, kind) {
      if (!drawing.drawsOn(kind)) return;
      kinds.add(kind.name);
      const prototype = /** @type {AOT.Node} */ (nodeType.prototype);
      const { onExecuted } = prototype;
      prototype.onExecuted = function (output) {
        onExecuted?.call(this, output);
        if (output) viewOf(this)?.show(output);
      };
      // The canvas looks for pictures to show when it draws a node's background.
      if (drawing.hidesPicture) prototype.onDrawBackground = () => {};
    },

    /** @param {AOT.Node} node */
    nodeCreated(node) {
      if (kinds.has(node.comfyClass)) addView(node, drawing);
    },

    // A step that is undone makes all nodes anew.
    afterConfigureGraph: showRemembered,
    // A tab is returned to, or a run is opened from the queue.
    onNodeOutputsUpdated: showRemembered,
  });
}

/**
 * @param {AOT.Node} node
 * @param {Drawing} drawing
 */
function addView(node, drawing) {
  const view = drawing.make(node);
  const widget = node.addDOMWidget(drawing.widget, drawing.widget, view.element, {
    serialize: false,
    getMinHeight: () => view.leastHeight(),
    getMaxHeight: () => view.mostHeight?.(),
    getValue: () => "",
    setValue: () => {},
    onDraw: () => view.look?.(),
  });
  widget.serialize = false;
  widget.view = view;
  if (drawing.hidesPicture) {
    node.hideOutputImages = true;
    view.element.classList.add("aot-picture");
  }
  const { onRemoved } = node;
  node.onRemoved = function () {
    onRemoved?.call(this);
    // The editor may go on using the place it stood in for another node of the same number.
    view.element.remove();
  };
  fit(node, drawing.leastWidth);
}

/**
 * Makes a node at least as large as what is on it needs.
 * @param {AOT.Node} node
 * @param {number} [leastWidth] in pixels
 */
export function fit(node, leastWidth = 0) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, leastWidth), Math.max(node.size[1], height)]);
  // A node of the same size is not drawn again by itself, and its widgets keep their places.
  node.setDirtyCanvas(true, true);
}

/**
 * Puts a widget's element onto its node where the editor draws nodes as page elements and leaves such widgets out.
 * @param {AOT.Node} node
 * @param {HTMLElement} element
 */
function mount(node, element) {
  const body = document.querySelector(`[data-node-id="${node.id}"] [data-testid="node-body-${node.id}"]`);
  if (body && !element.closest("[data-node-id]")?.isConnected) {
    element.classList.add("aot-loose");
    body.append(element);
  } else if (!body && element.parentElement?.classList.contains("dom-widget")) {
    element.classList.remove("aot-loose");
  }
}

/**
 * Calls `look` once a frame at most, whenever the page has changed.
 * @param {() => void} look
 */
export function watchPage(look) {
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      look();
    });
  }).observe(document.body, { childList: true, subtree: true });
}
