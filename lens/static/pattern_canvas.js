// A block of an attention pattern on a canvas, with its tokens beside it, and the whole pattern, small, to move in.

import { make } from "./elements.js";

// Pixels of a block's side, and of the room for tokens above and to the left of it.
const SIDE = 512;
export const ROOM = 96;
const SMALL = 160;
// Rows of the smallest height that a token beside one needs.
const LEAST_ROW = 11;

const colourOf = (root, name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

// More attention is more of the colour; a root, because most attention is small.
const depthOf = (share) => Math.sqrt(Math.max(0, Math.min(1, share)));

function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > room) end -= 1;
  return `${text.slice(0, end)}…`;
}

function drawTicks(context, root, { block, corner, tokens }, side) {
  const every = Math.ceil(LEAST_ROW / side);
  context.fillStyle = colourOf(root, "soft");
  context.font = `${Math.min(13, Math.max(10, side - 1))}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (let at = 0; at < block; at += every) {
    const middle = ROOM + (at + 0.5) * side;
    context.textAlign = "right";
    context.fillText(shortened(context, tokens[corner[0] + at], ROOM - 8), ROOM - 5, middle);
    context.save();
    context.translate(middle, ROOM - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(shortened(context, tokens[corner[1] + at], ROOM - 8), 0, 0);
    context.restore();
  }
}

function drawCells(context, root, { numbers, size, block, corner }, [left, side]) {
  context.fillStyle = colourOf(root, "middle");
  context.fillRect(left, left, side * block, side * block);
  context.fillStyle = colourOf(root, "positive");
  for (let row = 0; row < block; row++) {
    for (let column = 0; column < block; column++) {
      const share = numbers[(corner[0] + row) * size + corner[1] + column];
      if (!(share > 0)) continue;
      context.globalAlpha = depthOf(share);
      // cells meet without a seam
      const [x, y] = [Math.floor(left + column * side), Math.floor(left + row * side)];
      context.fillRect(x, y, Math.ceil(left + (column + 1) * side) - x, Math.ceil(left + (row + 1) * side) - y);
    }
  }
  context.globalAlpha = 1;
}

// A canvas of this many pixels of the page each way, emptied, as sharp as the screen is.
function sized(canvas, span) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(span * ratio);
  canvas.style.width = `${span}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

// How many pixels of the page the canvas has each way. `about` has numbers, size, block, corner, tokens, cell, token and
// role as in pattern.js.
export function drawBlock(canvas, root, about) {
  const { numbers, block, corner, cell, token, role } = about;
  const side = Math.min(SIDE / block, 36);
  const span = Math.ceil(ROOM + side * block);
  const context = sized(canvas, span);
  drawTicks(context, root, about, side);
  if (!numbers) return span;
  drawCells(context, root, about, [ROOM, side]);
  const outline = (row, column, rows, columns, colour, width) => {
    context.strokeStyle = colourOf(root, colour);
    context.lineWidth = width;
    context.strokeRect(ROOM + column * side, ROOM + row * side, columns * side, rows * side);
  };
  const inside = (at, axis) => at >= corner[axis] && at < corner[axis] + block;
  const axis = role === "source" ? 1 : 0;
  if (token !== null && inside(token, axis)) {
    const at = token - corner[axis];
    if (axis === 0) outline(at, 0, 1, block, "ink", 1.5);
    else outline(0, at, block, 1, "ink", 1.5);
  }
  if (cell && inside(cell[0], 0) && inside(cell[1], 1)) {
    outline(cell[0] - corner[0], cell[1] - corner[1], 1, 1, "focus", 3);
  }
  return span;
}

// The whole pattern, each pixel the largest of what lies under it; `move` hears of the corner of the next block.
export function buildOverview(move) {
  const box = make("div", "overview");
  const about = { role: "img", "aria-label": "The whole pattern, and the block that is drawn" };
  const canvas = make("canvas", "", undefined, about);
  box.append(canvas, make("p", "hint", "The whole pattern: click to move the block."));
  let last = null;
  canvas.addEventListener("click", (event) => {
    const bounds = canvas.getBoundingClientRect();
    const shares = [(event.clientY - bounds.top) / bounds.height, (event.clientX - bounds.left) / bounds.width];
    const startOf = (share) => Math.round(share * last.size - last.block / 2);
    move(shares.map((share) => Math.max(0, Math.min(last.size - last.block, startOf(share)))));
  });
  return {
    box,
    draw(root, given) {
      const { numbers, size, block, corner } = (last = given);
      const pixels = Math.min(SMALL, size);
      const context = sized(canvas, SMALL);
      if (!numbers) return;
      const most = new Float32Array(pixels * pixels);
      const pixelOf = (at) => Math.floor((at * pixels) / size);
      for (let query = 0; query < size; query++) {
        for (let key = 0; key < size; key++) {
          const at = pixelOf(query) * pixels + pixelOf(key);
          most[at] = Math.max(most[at], numbers[query * size + key]);
        }
      }
      drawCells(context, root, { numbers: most, size: pixels, block: pixels, corner: [0, 0] }, [0, SMALL / pixels]);
      context.strokeStyle = colourOf(root, "focus");
      context.lineWidth = 2;
      const scale = SMALL / size;
      context.strokeRect(corner[1] * scale, corner[0] * scale, block * scale, block * scale);
    },
  };
}
