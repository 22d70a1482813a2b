// What the Transport Explorer draws: the frame that is looked at, the strip of all frames under it, and the layers.
// Names, colours and outlines of the roles, and the colour of weights, come with the tokens from the node.

const BLACK = "#000";
const DIM = "rgba(0, 0, 0, 0.5)";
const LEAST_THUMBNAIL = 44;
const BARS = 24;
const NUMBERS = 14;
const GONE = "rgba(255, 255, 255, 0.55)";

// A canvas's context in CSS pixels, cleared, sharp at the size it has on the screen.
function prepared(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const zoom = canvas.getBoundingClientRect().width / width || 1;
  const density = Math.min(3, Math.max(1, zoom * window.devicePixelRatio));
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  return { context, width, height };
}

// Where a frame's picture lies in a canvas, in CSS pixels: as large as it can be, in the middle.
export function fitted(canvas, picture) {
  const aspect = picture ? picture.naturalHeight / picture.naturalWidth : 9 / 16;
  const width = Math.min(canvas.clientWidth, canvas.clientHeight / aspect);
  const height = width * aspect;
  return { left: (canvas.clientWidth - width) / 2, top: (canvas.clientHeight - height) / 2, width, height };
}

// Which of so many equal parts a point is in, by its share of the way across.
export function slotAt(share, parts) {
  return Math.min(parts - 1, Math.max(0, Math.floor(share * parts)));
}

/** @returns {[number, number, number, number]} left, top, width and height */
function box(area, [rows, columns], { y, x }) {
  const [width, height] = [area.width / columns, area.height / rows];
  return [area.left + x * width, area.top + y * height, width, height];
}

/** @returns {[number, number, number, number]} */
function inset([left, top, width, height], by) {
  return [left + by, top + by, Math.max(0, width - 2 * by), Math.max(0, height - 2 * by)];
}

function rgb(colour) {
  return `rgb(${colour})`;
}

// What lies under pictures and beside outlines.
function darkOf({ background }) {
  return background ? rgb(background) : BLACK;
}

// How weights are shaded: the colour, and the opacity for a weight's share of the largest.
function shadingOf({ shade }, element) {
  if (!shade) return { colour: getComputedStyle(element).color, opacity: (share) => share };
  const { colour, faintest, strongest, bend } = shade;
  return { colour: rgb(colour), opacity: (share) => faintest + (strongest - faintest) * share ** bend };
}

function drawPicture(context, picture, area, dark, dim) {
  const rectangle = [area.left, area.top, area.width, area.height];
  context.fillStyle = dark;
  context.fillRect(...rectangle);
  if (picture) context.drawImage(picture, ...rectangle);
  if (!dim) return;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = BLACK;
  context.fillRect(...rectangle);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = DIM;
  context.fillRect(...rectangle);
}

function drawWeights(context, area, frame, { marks, grid, largest }, { colour, opacity }) {
  context.fillStyle = colour;
  for (const mark of marks) {
    if (mark.frame !== frame) continue;
    context.globalAlpha = opacity(mark.weight / largest);
    context.fillRect(...box(area, grid, mark));
  }
  context.globalAlpha = 1;
}

function drawGrid(context, area, [rows, columns]) {
  if (area.width / columns < 7) return;
  context.strokeStyle = "rgba(0, 0, 0, 0.28)";
  context.lineWidth = 1;
  context.beginPath();
  for (let x = 1; x < columns; x += 1) {
    context.moveTo(area.left + (x * area.width) / columns, area.top);
    context.lineTo(area.left + (x * area.width) / columns, area.top + area.height);
  }
  for (let y = 1; y < rows; y += 1) {
    context.moveTo(area.left, area.top + (y * area.height) / rows);
    context.lineTo(area.left + area.width, area.top + (y * area.height) / rows);
  }
  context.stroke();
}

function colourOf(transport, token) {
  return rgb(transport.colours[transport.role[token]]);
}

// A place with tokens: the outline of the role that comes first, and a marked corner where a role has one.
function outline(context, transport, tokens, area) {
  const rectangle = box(area, transport.tokenGrid, transport.placeOf(tokens[0]));
  const outlineOf = (token) => transport.outlines[transport.role[token]];
  const rank = (token) => transport.order.indexOf(transport.role[token]);
  const first = tokens.reduce((best, token) => (rank(token) < rank(best) ? token : best));
  context.strokeStyle = colourOf(transport, first);
  context.lineWidth = 1.5;
  context.setLineDash(outlineOf(first) === "dashed" ? [4, 2] : []);
  context.strokeRect(...inset(rectangle, 1.25));
  context.setLineDash([]);
  const cornered = tokens.find((token) => outlineOf(token) === "corner");
  if (cornered === undefined) return;
  context.fillStyle = colourOf(transport, cornered);
  const [left, top, width, height] = rectangle;
  const corner = Math.min(width, height) / 2;
  context.beginPath();
  context.moveTo(left, top);
  context.lineTo(left + corner, top);
  context.lineTo(left, top + corner);
  context.fill();
}

// A place whose tokens the layer does not see: crossed out.
function crossOut(context, rectangle) {
  const [left, top, width, height] = inset(rectangle, 1.25);
  context.fillStyle = DIM;
  context.fillRect(left, top, width, height);
  context.strokeStyle = GONE;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(left, top);
  context.lineTo(left + width, top + height);
  context.moveTo(left + width, top);
  context.lineTo(left, top + height);
  context.stroke();
}

// Dark lines on both sides, so that it shows on any picture.
function emphasise(context, rectangle, colour, dark) {
  for (const [line, style] of [[5, dark], [3, colour]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.strokeRect(...inset(rectangle, -1.5));
  }
}

export function drawFrame(view, spread) {
  const { transport, frame, selected, cursor, layers } = view;
  const { context } = prepared(view.frameCanvas);
  const picture = view.picture(frame);
  const area = fitted(view.frameCanvas, picture);
  const dark = darkOf(transport);
  drawPicture(context, picture, area, dark, selected !== null);
  drawWeights(context, area, frame, spread, shadingOf(transport, view.element));
  drawGrid(context, area, transport.grid);
  context.globalAlpha = selected === null ? 1 : 0.65;
  for (const place of view.placesLeftIn(frame)) crossOut(context, box(area, transport.tokenGrid, place));
  for (const tokens of transport.placesIn(frame)) outline(context, transport, tokens, area);
  context.globalAlpha = 1;
  const gone = selected?.gone === undefined ? null : layers.transport.placeOf(selected.gone);
  if (gone?.frame === frame) emphasise(context, box(area, transport.tokenGrid, gone), GONE, dark);
  if (selected?.token !== undefined && transport.placeOf(selected.token).frame === frame) {
    const rectangle = box(area, transport.tokenGrid, transport.placeOf(selected.token));
    emphasise(context, rectangle, colourOf(transport, selected.token), dark);
  }
  const cell = selected?.source === undefined ? null : transport.cellOf(selected.source);
  if (cell?.frame === frame) emphasise(context, box(area, transport.grid, cell), "#fff", dark);
  if (cursor && !view.pinned && !cell) {
    context.setLineDash([3, 3]);
    context.strokeStyle = "#fff";
    context.lineWidth = 1;
    context.strokeRect(...box(area, view.grid, cursor));
    context.setLineDash([]);
  }
}

// Thumbnails, as many as there is room for, and under them a bar for every frame: its share of the selection.
export function drawStrip(view, spread) {
  const { transport, frame, element, stripCanvas } = view;
  const { context, width, height } = prepared(stripCanvas);
  const style = getComputedStyle(element);
  const dark = darkOf(transport);
  const shading = shadingOf(transport, element);
  const slot = width / transport.frames;
  const step = Math.ceil(LEAST_THUMBNAIL / slot);
  const pictures = height - BARS - NUMBERS;
  context.font = "10px sans-serif";
  context.textAlign = "center";
  for (let index = 0; index < transport.frames; index += step) {
    const picture = view.picture(index);
    const aspect = picture ? picture.naturalHeight / picture.naturalWidth : 9 / 16;
    const across = Math.min(slot * step - 2, pictures / aspect);
    const area = {
      left: index * slot + (slot * Math.min(step, transport.frames - index) - across) / 2,
      top: pictures - across * aspect,
      width: across,
      height: across * aspect,
    };
    drawPicture(context, picture, area, dark, view.selected !== null);
    drawWeights(context, area, index, spread, shading);
    context.fillStyle = style.color;
    context.fillText(transport.frameName(index), (index + 0.5) * slot, height - BARS - 3);
  }
  const most = spread.perFrame.reduce((most, share) => Math.max(most, share), 0);
  spread.perFrame.forEach((share, index) => {
    const bar = most ? (share / most) * (BARS - 4) : 0;
    context.fillStyle = shading.colour;
    context.fillRect(index * slot + 1, height - bar, Math.max(1, slot - 2), bar);
    if (share >= 0.005 && slot >= 34) {
      context.fillStyle = bar > 12 ? dark : style.color;
      context.fillText(`${Math.round(100 * share)}%`, (index + 0.5) * slot, height - (bar > 12 ? 4 : bar + 3));
    }
  });
  context.strokeStyle = style.color;
  context.lineWidth = 2;
  context.strokeRect(frame * slot + 1, 1, Math.max(2, slot - 2), height - 2);
}

// A bar for every layer of the LLM, as high as it sees tokens, and a line at their mean.
export function drawLayers(view) {
  const { layers, layer, element, layersCanvas } = view;
  const { context, width, height } = prepared(layersCanvas);
  const style = getComputedStyle(element);
  const slot = width / layers.count;
  const bars = height - NUMBERS - 2;
  const highOf = (tokens) => (tokens / layers.given) * bars;
  const numbered = new Set([0, layer, layers.count - 1, ...layers.steps.map((step) => step.layer)]);
  context.font = "10px sans-serif";
  context.textAlign = "center";
  layers.tokens.forEach((tokens, index) => {
    context.globalAlpha = index === layer ? 1 : 0.55;
    context.fillStyle = style.color;
    const high = Math.max(1, highOf(tokens));
    context.fillRect(index * slot + 0.5, 2 + bars - high, Math.max(1, slot - 1), high);
  });
  context.globalAlpha = 1;
  let free = 0;
  for (const index of [...numbered].sort((one, other) => one - other)) {
    const middle = Math.min(width - 8, Math.max(8, (index + 0.5) * slot));
    const across = context.measureText(`${index}`).width / 2 + 3;
    if (middle - across < free && index !== layer) continue;
    context.fillText(`${index}`, middle, height - 2);
    free = middle + across;
  }
  context.strokeStyle = style.color;
  context.lineWidth = 1;
  context.setLineDash([4, 3]);
  context.beginPath();
  context.moveTo(0, 2 + bars - highOf(layers.mean));
  context.lineTo(width, 2 + bars - highOf(layers.mean));
  context.stroke();
  context.setLineDash([]);
  context.lineWidth = 2;
  context.strokeRect(layer * slot + 1, 1, Math.max(2, slot - 2), bars + 2);
}
