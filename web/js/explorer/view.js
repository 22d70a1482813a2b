// The Transport Explorer on its node: a frame with its tokens, a strip of all frames, and a sentence about what is
// pointed at. The pointer and the keyboard reach the same things.

import { address } from "../on_node.js";
import { drawFrame, drawStrip, fitted, stripFrame } from "./drawing.js";
import { Transport } from "./transport.js";

const EMPTY = "Run the workflow to explore where its tokens come from.";
const HINT = "Point at the frame, or press the arrow keys.";
const KEYS =
  "Arrow keys move, Page Up and Page Down or [ and ] change the frame, T and Shift+T step through kept tokens, " +
  "N shows the other token at a place, C switches between tokens and cells, Enter pins, Escape lets go.";

export const STYLE = `
.aot-explorer {
  box-sizing: border-box; display: flex; flex-direction: column; gap: 6px; padding: 8px; border-radius: 6px;
  background: var(--comfy-input-bg); color: var(--input-text); font: 12px/1.35 sans-serif;
  width: 100%; height: 100%; overflow: hidden; cursor: default;
}
.aot-explorer:focus { outline: 2px solid var(--p-primary-color, currentcolor); outline-offset: -2px; }
.aot-explorer canvas { display: block; width: 100%; touch-action: none; }
.aot-explorer .aot-frame { flex: 1 1 0; min-height: 80px; cursor: crosshair; }
.aot-explorer .aot-strip { flex: none; height: 92px; cursor: ew-resize; }
.aot-explorer .aot-words { flex: none; height: 66px; overflow-y: auto; user-select: text; }
.aot-explorer .aot-bar { flex: none; display: flex; gap: 6px; align-items: center; color: var(--descrip-text); }
.aot-explorer .aot-bar span { flex: 1; }
.aot-explorer button {
  font: inherit; color: var(--input-text); background: var(--comfy-menu-bg); border: 1px solid var(--border-color);
  border-radius: 4px; padding: 2px 8px; cursor: pointer;
}
.aot-explorer button:disabled { opacity: 0.45; cursor: default; }
.aot-explorer.aot-loose { width: 520px; height: 560px; margin: 0 16px; resize: both; }
`;

function make(tag, className, attributes = {}) {
  const element = document.createElement(tag);
  element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

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
    this.words = make("div", "aot-words", { role: "status", "aria-live": "polite" });
    this.note = make("span", "", { title: KEYS });
    this.otherButton = this.#button("Other token here", () => this.otherToken());
    this.modeButton = this.#button("Show cells", () => this.switchMode());
    this.pinButton = this.#button("Pin", () => this.togglePin());
    const bar = make("div", "aot-bar");
    bar.append(this.note, this.otherButton, this.modeButton, this.pinButton);
    this.element.append(this.frameCanvas, this.stripCanvas, this.words, bar);
    this.#listen();
    this.#reset();
    this.render();
  }

  #reset() {
    Object.assign(this, { frame: 0, cursor: null, selected: null, pinned: false, byCells: false });
  }

  #button(text, act) {
    const button = make("button", "", { type: "button" });
    button.textContent = text;
    button.addEventListener("click", act);
    return button;
  }

  #listen() {
    const { element, frameCanvas, stripCanvas } = this;
    // Otherwise the node would be dragged along.
    element.addEventListener("pointerdown", (event) => event.stopPropagation());
    element.addEventListener("keydown", (event) => this.#key(event));
    frameCanvas.addEventListener("pointermove", (event) => this.#point(event));
    frameCanvas.addEventListener("click", (event) => this.#click(event));
    const scrub = (event) => this.#scrub(event);
    stripCanvas.addEventListener("pointerdown", (event) => {
      stripCanvas.setPointerCapture(event.pointerId);
      scrub(event);
    });
    stripCanvas.addEventListener("pointermove", (event) => event.buttons && scrub(event));
    new ResizeObserver(() => this.render()).observe(element);
  }

  leastHeight() {
    return 420;
  }

  // What the node gave; what was pointed at is let go of.
  /** @param {AOT.Output} output */
  show({ aot_transport: [sent] = [null], aot_frames: frames }) {
    if (!sent || this.shown === frames[0].filename) return;
    this.load(sent, frames.map(address));
    this.shown = frames[0].filename;
  }

  load(sent, addresses) {
    this.sent = sent;
    this.transport = new Transport(sent);
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
    const tokens = this.byCells ? [] : this.transport.tokensAt(this.frame, y, x);
    if (!tokens.length) {
      this.selected = { source: this.transport.sourceAt(this.frame, ...cell) };
    } else if (!tokens.includes(this.selected?.token)) {
      this.selected = { token: tokens[0] };
    }
    this.render();
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
    const token = this.selected?.token;
    if (token === undefined) return [];
    const { frame, y, x } = this.transport.placeOf(token);
    return this.transport.tokensAt(frame, y, x);
  }

  otherToken() {
    const here = this.#tokensHere();
    if (here.length < 2) return;
    this.selected = { token: here[(here.indexOf(this.selected.token) + 1) % here.length] };
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

  #scrub(event) {
    if (!this.transport) return;
    const box = this.stripCanvas.getBoundingClientRect();
    this.showFrame(stripFrame((event.clientX - box.left) / box.width, this.transport.frames));
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
    const act = {
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
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    // The editor has its own meaning for some of these.
    event.stopPropagation();
    act();
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
      for (const { token, weight } of transport.fromSource(selected.source)) {
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
    const description =
      selected.token === undefined
        ? transport.describeSource(selected.source)
        : transport.describeToken(selected.token, frame);
    return (this.pinned ? "Pinned. " : "") + description;
  }

  // Draws once before the next picture, however often it is asked for; the words change at once.
  render() {
    const { transport } = this;
    const description = this.describe();
    if (this.words.textContent !== description) this.words.textContent = description;
    this.note.textContent = transport ? transport.describeShown() : "";
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
    });
  }
}
