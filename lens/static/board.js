// A board: cells in rows and columns under their tick labels, with a tip. One cell is in the tab order, and the arrow
// keys go on from it. Rows and columns are { name, labels, tokens }, where tokens [text, remark] may be null.

import { make } from "./elements.js";

const MOVES = {
  ArrowUp: ([row, column]) => [row - 1, column],
  ArrowDown: ([row, column]) => [row + 1, column],
  ArrowLeft: ([row, column]) => [row, column - 1],
  ArrowRight: ([row, column]) => [row, column + 1],
  Home: ([row]) => [row, 0],
  End: ([row]) => [row, Infinity],
};
// Pixels of a line of tick labels, of a letter, and of the longest label beside a row.
const [LINE, LETTER, MARGIN] = [13, 7, 120];
// Numbers up to this many letters lie above a column; longer names and tokens stand upright.
const SHORT = 3;

const longest = (texts) => Math.max(0, ...texts.map((text) => text.length));
const tokenAt = (dim, at) => dim.tokens?.[at][0] ?? "";

// How many labels share the room of one, so that they do not run into each other.
const every = (needed, room) => Math.ceil(needed / room);

const standsUpright = (dim) => dim.tokens !== null || longest(dim.labels) > SHORT;

function columnTicks(columns, width) {
  const upright = longest(columns.labels) > SHORT;
  const everyNumber = every(LETTER * (longest(columns.labels) + 0.5), width);
  const everyToken = every(LINE, width);
  return columns.labels.map((label, at) => {
    const text = `${columns.name} ${label} ${tokenAt(columns, at)}`.trim();
    const tick = make("span", "tick top", undefined, { role: "columnheader", "aria-label": text });
    const standing = upright ? label : tokenAt(columns, at);
    if (standing && at % everyToken === 0) tick.append(make("span", "upright", standing));
    if (!upright) tick.append(make("span", "number", at % everyNumber ? "" : label));
    return tick;
  });
}

function rowTick(rows, at, height) {
  const [label, token] = [rows.labels[at], tokenAt(rows, at)];
  const about = { role: "rowheader", "aria-label": `${rows.name} ${label} ${token}`.trim() };
  const tick = make("span", "tick side", undefined, about);
  const texts = at % every(LINE - 1, height) ? [] : [token, label];
  tick.append(...texts.filter((text) => text).map((text) => make("span", "", text)));
  return tick;
}

function marginOf(rows) {
  const letters = longest(rows.labels.map((label, at) => `${tokenAt(rows, at)} ${label}`.trim()));
  return Math.max(28, Math.min(MARGIN, LETTER * letters + 10));
}

// `describe` says a reading in words, `choose` hears of the cell that was chosen, as [row, column].
export function buildBoard(rows, columns, { label, width, height, describe, choose }) {
  const board = make("div", "board");
  const grid = make("div", "grid", undefined, { role: "grid", "aria-label": label });
  const tip = make("div", "tip", "", { "aria-hidden": "true" });
  const least = standsUpright(columns) ? Math.min(width, LINE) : 0;
  const sizes = { margin: marginOf(rows), "cell-least": least, "cell-width": width, "cell-height": height };
  for (const [name, size] of Object.entries(sizes)) board.style.setProperty(`--${name}`, `${size}px`);
  board.style.setProperty("--columns", columns.labels.length);
  board.classList.toggle("pairs", rows.name === "query");
  const top = make("div", "row", undefined, { role: "row" });
  top.append(make("span", "corner", "", { role: "presentation" }), ...columnTicks(columns, width));
  grid.append(top);
  const cells = rows.labels.map((_, row) => {
    const line = make("div", "row", undefined, { role: "row" });
    const ofRow = columns.labels.map((_, column) => {
      const element = make("div", "cell", undefined, { role: "gridcell", tabindex: "-1" });
      element.dataset.at = `${row},${column}`;
      return element;
    });
    line.append(rowTick(rows, row, height), ...ofRow);
    grid.append(line);
    return ofRow;
  });
  board.append(make("span", "axis top", columns.name), make("span", "axis side", rows.name), grid, tip);

  let readings = [];
  let marked = cells[0][0];
  const cellOf = (event) => event.target.closest?.(".cell")?.dataset.at.split(",").map(Number);
  function showTip([row, column]) {
    const element = cells[row][column];
    tip.textContent = describe(readings[row * columns.labels.length + column]);
    tip.classList.add("on");
    const middle = element.offsetLeft + element.offsetWidth / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(0, Math.min(middle, board.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, element.offsetTop - tip.offsetHeight - 6)}px`;
  }
  const hideTip = () => tip.classList.remove("on");
  grid.addEventListener("pointerover", (event) => (cellOf(event) ? showTip(cellOf(event)) : hideTip()));
  grid.addEventListener("pointerleave", hideTip);
  grid.addEventListener("focusin", (event) => cellOf(event) && showTip(cellOf(event)));
  grid.addEventListener("focusout", hideTip);
  grid.addEventListener("click", (event) => cellOf(event) && choose(cellOf(event)));
  grid.addEventListener("keydown", (event) => {
    const from = cellOf(event);
    if (!from || !(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [row, column] = MOVES[event.key](from);
    const inside = (at, size) => Math.max(0, Math.min(at, size - 1));
    const to = [inside(row, rows.labels.length), inside(column, columns.labels.length)];
    choose(to);
    cells[to[0]][to[1]].focus();
  });

  return {
    board,
    width: width * columns.labels.length,
    has: (at) => Boolean(cells[at[0]]?.[at[1]]),
    // Fill every cell from its reading, in order.
    show(given, fill) {
      readings = given;
      cells.flat().forEach((element, at) => {
        fill(element, readings[at]);
        element.setAttribute("aria-label", describe(readings[at]));
      });
    },
    mark([row, column]) {
      for (const [element, on] of [[marked, false], [cells[row][column], true]]) {
        element.tabIndex = on ? 0 : -1;
        element.classList.toggle("selected", on);
        element.setAttribute("aria-selected", String(on));
      }
      marked = cells[row][column];
    },
  };
}
