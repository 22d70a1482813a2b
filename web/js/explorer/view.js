// The Transport Explorer on its node: a frame with its tokens, a strip of all frames, the LLM's layers where stages act
// between them, and a sentence about what is pointed at. The pointer and the keyboard reach the same things.

import { address } from "../on_node.js";
import { drawFrame, drawLayers, drawStrip, fitted, slotAt } from "./drawing.js";
import { make, scrubbed } from "./elements.js";
import { Layers } from "./layers.js";
import { Transport } from "./transport.js";

const EMPTY = "Run the workflow to explore where its tokens come from.";
const HINT = "Point at the frame, or press the arrow keys.";
const KEYS =
  "Arrow keys move, Page Up and Page Down or [ and ] change the frame, T and Shift+T step through kept tokens, " +
  "N shows the other token at a place, C switches between tokens and cells, Enter pins, Escape lets go.";
const LAYER_KEYS = " L and Shift+L go through the layers of the LLM.";

function bounded(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

export class Explorer {
  constructor() {
    this.element = make("div", "aot-explorer", {
      tabindex: "0", role: "application", "aria-label": "Transport explorer", "aria-description": KEYS,
    });
    this.frameCanvas = make("canvas", "aot-frame", { "aria-hidden": "true" });
    this.stripCanvas = make("canvas", "aot-strip", { "aria-hidden": "true" });
    this.layersCanvas = make("canvas", "aot-layers", {
      tabindex: "0", role: "slider", "aria-label": "Layer of the LLM", "aria-valuemin": "0", hidden: "",
    });
    this.layerWords = make("div", "aot-layer", { role: "status", "aria-live": "polite", hidden: "" });
    this.words = make("div", "aot-words", { role: "status", "aria-live": "polite" });
    this.note = make("span", "", { title: KEYS });
    this.otherButton = this.#button("Other token here", () => this.otherToken());
    this.modeButton = this.#button("Show cells", () => this.switchMode());
    this.pinButton = this.#button("Pin", () => this.togglePin());
    const bar = make("div", "aot-bar");
    bar.append(this.note, this.otherButton, this.modeButton, this.pinButton);
    this.element.append(
      this.frameCanvas, this.stripCanvas, this.layersCanvas, this.layerWords, this.words, bar,
    );
    this.#listen();
    this.#reset();
    this.render();
  }

  #reset() {
    Object.assign(this, { frame: 0, layer: 0, cursor: null, selected: null, pinned: false, byCells: false });
  }

  #button(text, act) {
    const button = make("button", "", { type: "button" });
    button.textContent = text;
    button.addEventListener("click", act);
    return button;
  }

  #listen() {
    const { element, frameCanvas, stripCanvas, layersCanvas } = this;
    // Otherwise the node would be dragged along.
    element.addEventListener("pointerdown", (event) => event.stopPropagation());
    element.addEventListener("keydown", (event) => this.#key(event));
    frameCanvas.addEventListener("pointermove", (event) => this.#point(event));
    frameCanvas.addEventListener("click", (event) => this.#click(event));
    scrubbed(stripCanvas, (share) => this.transport && this.showFrame(slotAt(share, this.transport.frames)));
    scrubbed(layersCanvas, (share) => this.layers && this.showLayer(slotAt(share, this.layers.count)));
    new ResizeObserver(() => this.render()).observe(element);
  }

  leastHeight() {
    return this.layers ? 500 : 420;
  }

  // What the node gave; what was pointed at is let go of.
  /** @param {AOT.Output} output */
  show({ aot_transport: [sent] = [null], aot_frames: frames, aot_layers: [layers] = [null] }) {
    if (!sent || this.shown === frames[0].filename) return;
    this.load(sent, frames.map(address), layers);
    this.shown = frames[0].filename;
  }

  /** @param {AOT.Layers | { note: string } | null} layers */
  load(sent, addresses, layers = null) {
    this.sent = sent;
    this.transport = new Transport(sent);
    this.layers = layers && "steps" in layers ? new Layers(layers, this.transport) : null;
    this.noLayers = layers && "note" in layers ? layers.note : "";
    this.addresses = addresses;
    this.pictures = new Map();
    this.#reset();
    this.render();
  }

  // The picture of a frame once it is there; asks for it otherwise.
  picture(frame) {
    if (!this.pictures.has(frame)) {
      const image = new Image();
      image.onload = () => this.render();
      image.src = this.addresses[frame];
      this.pictures.set(frame, image);
    }
    const image = this.pictures.get(frame);
    return image.complete && image.naturalWidth ? image : null;
  }

  get grid() {
    return this.byCells ? this.transport.grid : this.transport.tokenGrid;
  }

  // Looks at the place under `share`, the point's way across the frame in y and x, 0 to 1.
  #lookAt(share) {
    const [y, x] = this.grid.map((cells, axis) => bounded(Math.floor(share[axis] * cells), 0, cells - 1));
    const cell = this.transport.grid.map((cells, axis) => bounded(Math.floor(share[axis] * cells), 0, cells - 1));
    this.cursor = { y, x };
    const here = this.byCells ? [] : this.#tokensAt({ frame: this.frame, y, x });
    if (!here.length) {
      this.selected = { source: this.transport.sourceAt(this.frame, ...cell) };
    } else if (!here.some((each) => this.#isSelected(each))) {
      this.selected = here[0];
    }
    this.render();
  }

  // What is at a place of the token grid: tokens, then those that the LLM was given and this layer does not see.
  #tokensAt({ frame, y, x }) {
    const gone = this.step ? this.layers.transport.tokensAt(frame, y, x).filter((given) => this.#isGone(given)) : [];
    return [
      ...this.transport.tokensAt(frame, y, x).map((token) => ({ token })),
      ...gone.map((given) => ({ gone: given })),
    ];
  }

  #isGone(given) {
    return this.step.tokenOf(given) === undefined;
  }

  #isSelected({ token, gone }) {
    return this.selected !== null && this.selected.token === token && this.selected.gone === gone;
  }

  // Places of a frame all of whose tokens this layer does not see.
  placesLeftIn(frame) {
    if (!this.step) return [];
    const { transport } = this.layers;
    return transport
      .placesIn(frame)
      .filter((tokens) => tokens.every((given) => this.#isGone(given)))
      .map(([given]) => transport.placeOf(given));
  }

  // The step of the layers that is looked at; null where all tokens that the LLM was given are seen.
  get step() {
    return this.layers?.stepAt(this.layer) ?? null;
  }

  // What is selected stays so, as far as this layer sees it.
  showLayer(layer) {
    const given = this.#givenSelected();
    this.layer = bounded(layer, 0, this.layers.count - 1);
    const { step } = this;
    this.transport = step?.transport ?? this.layers.transport;
    if (given !== undefined) {
      const token = step ? step.tokenOf(given) : given;
      this.selected = token === undefined ? { gone: given } : { token };
    } else if (this.cursor && !this.pinned && !this.byCells) {
      this.selected = null;
      this.#lookAtCursor();
    }
    this.render();
  }

  // Which of the tokens that the LLM was given is selected.
  #givenSelected() {
    const { token, gone } = this.selected ?? {};
    return token === undefined ? gone : (this.step?.of[token] ?? token);
  }

  // Looks at the middle of the cursor's place.
  #lookAtCursor() {
    const { y, x } = this.cursor;
    this.#lookAt([(y + 0.5) / this.grid[0], (x + 0.5) / this.grid[1]]);
  }

  showFrame(frame) {
    this.frame = bounded(frame, 0, this.transport.frames - 1);
    if (this.cursor && !this.pinned) this.#lookAtCursor();
    else this.render();
  }

  selectToken(token) {
    const { frame, y, x } = this.transport.placeOf(token);
    Object.assign(this, { byCells: false, frame, cursor: { y, x }, selected: { token } });
    this.render();
  }

  #tokensHere() {
    const { token, gone } = this.selected ?? {};
    if (token !== undefined) return this.#tokensAt(this.transport.placeOf(token));
    return gone === undefined ? [] : this.#tokensAt(this.layers.transport.placeOf(gone));
  }

  otherToken() {
    const here = this.#tokensHere();
    if (here.length < 2) return;
    this.selected = here[(here.findIndex((each) => this.#isSelected(each)) + 1) % here.length];
    this.render();
  }

  // The next kept token of this frame in reading order, or the one before.
  stepToken(step) {
    const tokens = this.transport.placesIn(this.frame).flat();
    if (!tokens.length) return;
    const now = tokens.indexOf(this.selected?.token);
    const next = now < 0 ? (step > 0 ? 0 : tokens.length - 1) : (now + step + tokens.length) % tokens.length;
    this.selectToken(tokens[next]);
  }

  switchMode() {
    if (!this.transport) return;
    const before = this.grid;
    this.byCells = !this.byCells;
    this.pinned = false;
    if (this.cursor) {
      const { y, x } = this.cursor;
      this.#lookAt([(y + 0.5) / before[0], (x + 0.5) / before[1]]);
    } else {
      this.render();
    }
  }

  togglePin() {
    this.pinned = !this.pinned && this.selected !== null;
    this.render();
  }

  #point(event) {
    if (!this.transport || this.pinned) return;
    const share = this.#shareAt(event);
    if (share) this.#lookAt(share);
  }

  #click(event) {
    if (!this.transport) return;
    const share = this.#shareAt(event);
    if (!share) return;
    const pinned = this.pinned;
    this.pinned = false;
    this.#lookAt(share);
    this.pinned = !pinned;
    this.render();
  }

  // How far down and across the frame's picture an event is, 0 to 1; null beside it.
  #shareAt(event) {
    const { frameCanvas } = this;
    const box = frameCanvas.getBoundingClientRect();
    const scale = box.width / frameCanvas.clientWidth;
    const area = fitted(frameCanvas, this.picture(this.frame));
    const across = ((event.clientX - box.left) / scale - area.left) / area.width;
    const down = ((event.clientY - box.top) / scale - area.top) / area.height;
    return across >= 0 && across < 1 && down >= 0 && down < 1 ? [down, across] : null;
  }

  #move(dy, dx) {
    const [height, width] = this.grid;
    const { y, x } = this.cursor ?? { y: Math.floor(height / 2) - dy, x: Math.floor(width / 2) - dx };
    this.cursor = { y: bounded(y + dy, 0, height - 1), x: bounded(x + dx, 0, width - 1) };
    this.#lookAtCursor();
  }

  #key(event) {
    if (!this.transport || event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target !== this.element;
    const onLayers = event.target === this.layersCanvas;
    const act = (onLayers && this.#layerKey(event.key)) || this.#actOf(event, onButton);
    if (!act) return;
    event.preventDefault();
    // The editor has its own meaning for some of these.
    event.stopPropagation();
    act();
  }

  // Keys of a slider, while the layers have the focus.
  #layerKey(key) {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[key];
    const to = { Home: 0, End: this.layers.count - 1 }[key] ?? (step && this.layer + step);
    return to === undefined ? null : () => this.showLayer(to);
  }

  #actOf(event, onButton) {
    return {
      ArrowUp: () => this.#move(-1, 0),
      ArrowDown: () => this.#move(1, 0),
      ArrowLeft: () => this.#move(0, -1),
      ArrowRight: () => this.#move(0, 1),
      PageUp: () => this.showFrame(this.frame - 1),
      PageDown: () => this.showFrame(this.frame + 1),
      "[": () => this.showFrame(this.frame - 1),
      "]": () => this.showFrame(this.frame + 1),
      Home: () => this.showFrame(0),
      End: () => this.showFrame(this.transport.frames - 1),
      Enter: onButton ? null : () => this.togglePin(),
      Escape: this.pinned ? () => this.togglePin() : null,
      t: () => this.stepToken(event.shiftKey ? -1 : 1),
      n: () => this.otherToken(),
      c: () => this.switchMode(),
      l: this.layers ? () => this.showLayer(this.layer + (event.shiftKey ? -1 : 1)) : null,
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  }

  // How the selection's weight is spread: a weight for each source cell or token place it concerns, and each frame.
  spread() {
    const { transport, selected } = this;
    const perFrame = new Float64Array(transport.frames);
    const marks = [];
    if (selected?.token !== undefined) {
      for (const { source, weight } of transport.intoToken(selected.token)) {
        const cell = transport.cellOf(source);
        perFrame[cell.frame] += weight;
        if (cell.y !== undefined) marks.push({ ...cell, weight });
      }
    } else if (selected) {
      const went =
        selected.gone === undefined ? transport.fromSource(selected.source) : this.step.wentTo(selected.gone);
      for (const { token, weight } of went) {
        perFrame[transport.placeOf(token).frame] += weight;
        if (!transport.isNewline(token)) marks.push({ ...transport.placeOf(token), weight });
      }
    }
    const grid = selected?.token === undefined ? transport.tokenGrid : transport.grid;
    return { marks, perFrame, grid, largest: marks.reduce((most, { weight }) => Math.max(most, weight), 0) };
  }

  describe() {
    const { transport, selected, frame } = this;
    if (!transport) return EMPTY;
    const head = `Looking at frame ${transport.frameName(frame)} (${transport.frameTime(frame)}). `;
    if (!selected) return head + HINT;
    return (this.pinned ? "Pinned. " : "") + this.#describeSelected();
  }

  #describeSelected() {
    const { transport, layers, step, frame } = this;
    const { token, gone, source } = this.selected;
    if (token !== undefined) return transport.describeToken(token, frame, step?.joinedTo(token));
    if (gone === undefined) return transport.describeSource(source);
    const name = `${transport.where(layers.transport.placeOf(gone))}: ${layers.transport.tokenName(gone)}`;
    return transport.describeGone(name, layers.goneWith(gone), step.wentTo(gone));
  }

  #renderLayers() {
    const { layers, layer, layersCanvas, layerWords } = this;
    const words = layers ? layers.describe(layer) : (this.noLayers ?? "");
    layersCanvas.hidden = !layers;
    layerWords.hidden = !words;
    if (layerWords.textContent !== words) layerWords.textContent = words;
    const keys = layers ? KEYS + LAYER_KEYS : KEYS;
    this.element.setAttribute("aria-description", keys);
    this.note.title = keys;
    if (!layers) return;
    layersCanvas.setAttribute("aria-valuemax", `${layers.count - 1}`);
    layersCanvas.setAttribute("aria-valuenow", `${layer}`);
    layersCanvas.setAttribute("aria-valuetext", `layer ${layer}, ${layers.tokens[layer]} tokens`);
  }

  // Draws once before the next picture, however often it is asked for; the words change at once.
  render() {
    const { transport } = this;
    const description = this.describe();
    if (this.words.textContent !== description) this.words.textContent = description;
    this.note.textContent = transport ? transport.describeShown() : "";
    this.#renderLayers();
    this.otherButton.disabled = this.#tokensHere().length < 2;
    this.modeButton.disabled = !transport;
    this.modeButton.textContent = this.byCells ? "Show tokens" : "Show cells";
    this.pinButton.disabled = !this.selected;
    this.pinButton.textContent = this.pinned ? "Unpin" : "Pin";
    if (!transport || this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      if (!this.element.isConnected || !this.element.clientWidth) return;
      const spread = this.spread();
      drawFrame(this, spread);
      drawStrip(this, spread);
      if (this.layers) drawLayers(this);
    });
  }
}
