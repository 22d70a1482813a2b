// Puts the Transport Explorer's view onto its node.

import { STYLE } from "./explorer/elements.js";
import { Explorer } from "./explorer/view.js";
import { drawOnNodes } from "./on_node.js";

drawOnNodes({
  name: "ComfyUI-AOT.explorer",
  widget: "aot_explorer",
  style: STYLE,
  leastWidth: 460,
  hidesPicture: true,
  drawsOn: ({ name }) => name === "AOTTransportExplorer",
  make: () => new Explorer(),
});
