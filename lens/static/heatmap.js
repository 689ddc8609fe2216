// A map of attention heads and a table of the strongest, in plain elements: an anywidget module that reports inline.
//
// Traits: `data` { layers, heads, positions, values, low, high, level, bound, digits, top, units }, where values, low
// and high are [layer][head] or, with positions, [layer][head][pos]; null is missing, and low and high may be null as a
// whole. `selected` [layer, head] as indices, or null. Data reaches the page as text and as numbers only.

const STRONGEST = -1;
const MOST_BUTTONS = 16;
const MOST_LABELS = 16;
const MOVES = {
  ArrowUp: ([l, h]) => [l - 1, h],
  ArrowDown: ([l, h]) => [l + 1, h],
  ArrowLeft: ([l, h]) => [l, h - 1],
  ArrowRight: ([l, h]) => [l, h + 1],
  Home: ([l]) => [l, 0],
  End: ([l]) => [l, Infinity],
};

function make(tag, className, text, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function shown(number, digits) {
  if (digits === null && number === 0) return "0";
  if (digits === null) return number.toExponential(2).replaceAll("-", "\u2212");
  const rounded = number.toFixed(digits);
  return (Number(rounded) === 0 ? (0).toFixed(digits) : rounded).replace("-", "\u2212");
}

// What one cell says at a position, or at the position of its largest magnitude.
function reading(data, position, layer, head) {
  let pos = null;
  const at = (array) => (pos === null ? array?.[layer][head] : array?.[layer][head][pos]) ?? null;
  if (data.positions) {
    const magnitudes = data.values[layer][head].map((value) => (value === null ? -1 : Math.abs(value)));
    pos = position === STRONGEST ? magnitudes.indexOf(Math.max(...magnitudes)) : position;
  }
  const label = `L${data.layers[layer]}H${data.heads[head]}` + (pos === null ? "" : `@${data.positions[pos]}`);
  return { layer, head, label, value: at(data.values), low: at(data.low), high: at(data.high) };
}

function intervalText(data, { low, high }) {
  return low === null || high === null ? "" : `[${shown(low, data.digits)}, ${shown(high, data.digits)}]`;
}

function sentence(data, cell) {
  if (cell.value === null) return `${cell.label}: missing`;
  return `${cell.label}: ${shown(cell.value, data.digits)} ${intervalText(data, cell)}`.trimEnd();
}

// Colour by value: the style sheet mixes the two ends with the middle, so that it can follow light and dark.
function paint(element, value, bound) {
  element.classList.toggle("missing", value === null);
  element.classList.toggle("negative", value !== null && value < 0);
  element.style.setProperty("--depth", `${value === null ? 0 : Math.min(100, (100 * Math.abs(value)) / bound)}%`);
}

function buildGrid(data) {
  const [layers, heads] = [data.layers.length, data.heads.length];
  const about = { role: "grid", "aria-label": "Heads by layer (rows) and head (columns)" };
  const grid = make("div", "grid", undefined, about);
  grid.style.setProperty("--heads", heads);
  grid.style.setProperty("--cell-width", `${Math.max(7, Math.min(40, Math.floor(600 / heads)))}px`);
  grid.style.setProperty("--cell-height", `${layers <= 14 ? 30 : layers <= 26 ? 22 : layers <= 48 ? 17 : 12}px`);
  grid.classList.toggle("long", [...data.layers, ...data.heads].some((name) => name.length > 3));
  const everyHead = Math.ceil(heads / MOST_LABELS);
  const everyLayer = layers <= 48 ? 1 : 2;
  const top = make("div", "row", undefined, { role: "row" });
  top.append(make("span", "corner", "", { role: "presentation" }));
  data.heads.forEach((name, head) => {
    const shownName = head % everyHead ? "" : name;
    top.append(make("span", "tick", shownName, { role: "columnheader", "aria-label": `head ${name}` }));
  });
  grid.append(top);
  const cells = data.layers.map((name, layer) => {
    const row = make("div", "row", undefined, { role: "row" });
    const shownName = layer % everyLayer ? "" : name;
    row.append(make("span", "tick side", shownName, { role: "rowheader", "aria-label": `layer ${name}` }));
    const ofLayer = data.heads.map((_, head) => {
      const cell = make("div", "cell", undefined, { role: "gridcell", tabindex: "-1" });
      cell.dataset.at = `${layer},${head}`;
      return cell;
    });
    row.append(...ofLayer);
    grid.append(row);
    return ofLayer;
  });
  return { grid, cells };
}

function buildLegend(data) {
  const legend = make("div", "legend");
  const ticks = make("div", "numbers");
  const parts = data.digits === null ? [-1, 0, 1] : [-1, -0.5, 0, 0.5, 1];
  for (const part of parts) ticks.append(make("span", "", shown(part * data.bound, data.digits)));
  legend.append(make("div", "scale", undefined, { role: "img", "aria-label": "Colour scale" }), ticks);
  legend.append(make("div", "units", data.units));
  if (data.values.flat(2).includes(null)) {
    const missing = make("div", "missing-entry");
    missing.append(make("span", "cell missing"), make("span", "", "missing: not measured, or undefined"));
    legend.append(missing);
  }
  return legend;
}

function buildPositions(data, choose) {
  const box = make("div", "positions", undefined, { role: "group", "aria-label": "Token position" });
  const button = (text, position) => {
    const one = make("button", "", text, { type: "button", "aria-pressed": "false" });
    one.dataset.position = position;
    one.addEventListener("click", () => choose(position));
    return one;
  };
  box.append(make("span", "name", "position"), button("strongest", STRONGEST));
  if (data.positions.length <= MOST_BUTTONS) {
    box.append(...data.positions.map((name, position) => button(name, position)));
  } else {
    const last = data.positions.length - 1;
    const range = { type: "range", min: 0, max: last, value: 0, "aria-label": "position" };
    const slider = make("input", "", undefined, range);
    slider.addEventListener("input", () => choose(slider.valueAsNumber));
    box.append(slider, make("output", ""));
  }
  return box;
}

// A bar from 0 to the value and a line over the interval, on an axis that all rows share.
function buildBar(cell, from, to) {
  const percent = (number) => (100 * (number - from)) / (to - from);
  const span = (className, start, end) => {
    const part = make("span", className);
    part.style.left = `${percent(start)}%`;
    part.style.width = `${percent(end) - percent(start)}%`;
    return part;
  };
  const bar = make("div", "bar", undefined, { "aria-hidden": "true" });
  bar.append(span(cell.value < 0 ? "fill negative" : "fill", Math.min(0, cell.value), Math.max(0, cell.value)));
  if (cell.low !== null && cell.high !== null) bar.append(span("whisker", cell.low, cell.high));
  bar.append(span("zero", 0, 0));
  return bar;
}

function buildTable(data, readings, select) {
  const present = readings.flat().filter((cell) => cell.value !== null);
  const rows = present.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, data.top);
  const ends = rows.flatMap(({ value, low, high }) => [value, low ?? 0, high ?? 0]);
  const [from, to] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const table = make("table", "top");
  const title = rows.length ? `The ${rows.length} largest by magnitude` : "All heads are missing here";
  table.append(make("caption", "", title));
  table.classList.toggle("long", rows.some(({ label }) => label.length > 12));
  const titles = make("tr");
  const columns = data.low ? ["head", "", "value", `${Math.round(100 * data.level)}% interval`] : ["head", "", "value"];
  columns.forEach((name, at) => titles.append(make("th", at > 1 ? "number" : "", name, { scope: "col" })));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(titles);
  for (const cell of rows) {
    const row = table.tBodies[0].insertRow();
    row.dataset.at = `${cell.layer},${cell.head}`;
    const button = make("button", "", cell.label, { type: "button" });
    row.insertCell().append(button);
    row.insertCell().append(buildBar(cell, from, to === from ? from + 1 : to));
    row.append(make("td", "number", shown(cell.value, data.digits)));
    if (data.low) row.append(make("td", "number interval", intervalText(data, cell)));
    row.addEventListener("click", () => select([cell.layer, cell.head]));
  }
  return table;
}

function draw(model, root) {
  const data = model.get("data");
  let position = data.positions ? STRONGEST : null;
  let selected = null;
  let readings = [];
  const { grid, cells } = buildGrid(data);
  const status = make("p", "status", "", { role: "status" });
  const tip = make("div", "tip", "", { "aria-hidden": "true" });
  const table = make("div", "table");
  const board = make("div", "board");
  board.append(make("span", "axis top", "head"), make("span", "axis side", "layer"), grid, buildLegend(data), tip);
  const positions = data.positions ? buildPositions(data, choose) : null;
  const map = make("div", "map");
  map.append(...(positions ? [positions] : []), status, board);
  root.replaceChildren(map, table);

  const cellOf = (event) => event.target.closest?.("[data-at]")?.dataset.at.split(",").map(Number);
  function showTip([layer, head]) {
    const cell = cells[layer][head];
    tip.textContent = sentence(data, readings[layer][head]);
    tip.classList.add("on");
    const middle = cell.offsetLeft + cell.offsetWidth / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(0, Math.min(middle, board.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${cell.offsetTop - tip.offsetHeight - 6}px`;
  }
  function hideTip() {
    tip.classList.remove("on");
  }
  function select(at) {
    if (selected) cells[selected[0]][selected[1]].tabIndex = -1;
    selected = at;
    cells[at[0]][at[1]].tabIndex = 0;
    const key = at.join(",");
    for (const element of root.querySelectorAll("[data-at]")) {
      element.classList.toggle("selected", element.dataset.at === key);
      if (element.classList.contains("cell")) element.setAttribute("aria-selected", element.dataset.at === key);
    }
    status.textContent = sentence(data, readings[at[0]][at[1]]);
    if (String(model.get("selected")) !== key) {
      model.set("selected", at);
      model.save_changes();
    }
  }
  // What the model has selected, where this map has such a cell.
  function given() {
    const at = model.get("selected");
    return at && cells[at[0]]?.[at[1]] ? [...at] : null;
  }
  function choose(wanted) {
    position = wanted;
    readings = cells.map((row, layer) => row.map((_, head) => reading(data, position, layer, head)));
    for (const cell of readings.flat()) {
      const element = cells[cell.layer][cell.head];
      paint(element, cell.value, data.bound);
      element.setAttribute("aria-label", sentence(data, cell));
    }
    for (const button of positions?.querySelectorAll("button") ?? []) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.position) === position));
    }
    const output = positions?.querySelector("output");
    if (output) output.textContent = position === STRONGEST ? "" : data.positions[position];
    table.replaceChildren(buildTable(data, readings, select));
    const first = table.querySelector("[data-at]")?.dataset.at.split(",").map(Number);
    select(selected ?? given() ?? first ?? [0, 0]);
  }

  grid.addEventListener("pointerover", (event) => (cellOf(event) ? showTip(cellOf(event)) : hideTip()));
  grid.addEventListener("pointerleave", hideTip);
  grid.addEventListener("focusin", (event) => cellOf(event) && showTip(cellOf(event)));
  grid.addEventListener("focusout", hideTip);
  grid.addEventListener("click", (event) => cellOf(event) && select(cellOf(event)));
  grid.addEventListener("keydown", (event) => {
    const from = cellOf(event);
    if (!from || !(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [layer, head] = MOVES[event.key](from);
    const inside = (at, size) => Math.max(0, Math.min(at, size - 1));
    const to = [inside(layer, data.layers.length), inside(head, data.heads.length)];
    select(to);
    cells[to[0]][to[1]].focus();
  });
  choose(position);
  return () => given() && select(given());
}

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map");
    el.append(root);
    let follow = draw(model, root);
    const redraw = () => (follow = draw(model, root));
    const reselect = () => follow();
    model.on("change:data", redraw);
    model.on("change:selected", reselect);
    return () => {
      model.off("change:data", redraw);
      model.off("change:selected", reselect);
    };
  },
};
