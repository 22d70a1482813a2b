// What the Transport Explorer is made of: its style, its elements, and strips that the pointer goes along.

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
.aot-explorer .aot-layers { flex: none; height: 48px; cursor: ew-resize; }
.aot-explorer .aot-layers:focus-visible { outline: 2px solid var(--p-primary-color, currentcolor); }
.aot-explorer .aot-layer { flex: none; min-height: 17px; user-select: text; }
.aot-explorer .aot-layers[hidden], .aot-explorer .aot-layer[hidden] { display: none; }
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

export function make(tag, className, attributes = {}) {
  const element = document.createElement(tag);
  element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Calls `scrub` with how far across a canvas the pointer is pressed, 0 to 1.
export function scrubbed(canvas, scrub) {
  const at = ({ clientX }) => {
    const box = canvas.getBoundingClientRect();
    scrub((clientX - box.left) / box.width);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    at(event);
  });
  canvas.addEventListener("pointermove", (event) => event.buttons && at(event));
}
