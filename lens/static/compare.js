// Two maps of the same cells beside each other, and where their cells stand in either: an anywidget module that pages
// inline.
//
// Traits: `top`, how many cells of largest magnitude count as on top, `by`, "magnitude" or "value", what the scatter
// ranks by, `selected` [row, column] as indices, or null; `numbers`, float32 [map, (value, low, high), cell], NaN is
// missing; `ranks`, int32 [(magnitude, value), map, cell] from 1, 0 is missing from one of the maps; and `data`:
//   names, units   of the two maps; `bounds` where their scales end, `digits` how they are shown, a pair each; `shared`
//                  whether both are on one scale
//   rows, columns  { name, labels, tokens }; `cells` their names in the order of rows; `present` how many have ranks
//   correlation    a sentence on the whole maps; `overlaps` one each for 1, 2, 3 ... cells on top

import { buildBoard } from "./board.js";
import { buildScatter } from "./compare_scatter.js";
import { buildChoices, intervalText, make, paint, shown } from "./elements.js";

const BOTH = ["missing from a map", "on top of neither", "on top of both"];
// A full circle marks what is on top of both, a ring what is on top of this map alone.
const buildMark = (both) => make("span", both ? "mark both" : "mark", undefined, { "aria-hidden": "true" });

function numbersOf(trait, Kind) {
  const bytes = trait instanceof ArrayBuffer ? new Uint8Array(trait) : trait;
  return new Kind(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function readingsOf(data, numbers) {
  const count = data.cells.length;
  const known = (at) => (Number.isNaN(numbers[at]) ? null : numbers[at]);
  return [0, 1].map((map) =>
    data.cells.map((name, cell) => {
      const [value, low, high] = [0, 1, 2].map((part) => known((3 * map + part) * count + cell));
      return { name, value, low, high, digits: data.digits[map] };
    }),
  );
}

function numberText({ value, low, high, digits }) {
  return value === null ? "missing" : `${shown(value, digits)} ${intervalText({ low, high }, digits)}`.trim();
}

function buildScale(bound, digits, units) {
  const legend = make("div", "legend");
  const numbers = make("div", "numbers");
  [-bound, 0, bound].forEach((number, at) => {
    const tick = make("span", "", shown(number, digits));
    tick.style.left = `${50 * at}%`;
    numbers.append(tick);
  });
  legend.append(make("div", "scale", undefined, { role: "img", "aria-label": "Colour scale" }), numbers);
  legend.append(make("div", "units", units));
  return legend;
}

function buildTop(most, change) {
  const box = make("label", "slider");
  const range = make("input", "", undefined, { type: "range", min: 1, max: most, step: 1 });
  const output = make("output", "");
  box.append(make("span", "name", "On top: the largest"), range, output);
  range.addEventListener("input", () => change(Number(range.value), false));
  range.addEventListener("change", () => change(Number(range.value), true));
  const show = (top) => {
    range.value = String(top);
    output.textContent = String(top);
  };
  return { box, show };
}

function buildTable(data, readings, groups, select) {
  const table = make("table", "top");
  const titles = make("tr");
  const heads = ["", ...data.names].map((name, at) => make("th", at ? "number" : "", name, { scope: "col" }));
  titles.append(...heads);
  table.append(make("caption", "", "On top"), make("thead"), make("tbody"));
  table.tHead.append(titles);
  for (const [title, cells] of groups) {
    const heading = table.tBodies[0].insertRow();
    heading.className = "group";
    heading.append(make("th", "", `${title}: ${cells.length}`, { scope: "rowgroup", colspan: 3 }));
    for (const cell of cells) {
      const row = table.tBodies[0].insertRow();
      row.dataset.cell = cell;
      row.insertCell().append(make("button", "", data.cells[cell], { type: "button" }));
      for (const map of readings) row.append(make("td", "number", shown(map[cell].value, map[cell].digits)));
      row.addEventListener("click", () => select(cell));
    }
  }
  return table;
}

function draw(model, root) {
  const data = model.get("data");
  const readings = readingsOf(data, numbersOf(model.get("numbers"), Float32Array));
  const ranks = numbersOf(model.get("ranks"), Int32Array);
  const [count, columns] = [data.cells.length, data.columns.labels.length];
  const rankOf = (by, map, cell) => ranks[(2 * (by === "value") + map) * count + cell];
  function isOnTop(map, cell) {
    const rank = rankOf("magnitude", map, cell);
    return rank > 0 && rank <= model.get("top");
  }
  function groupOf(cell) {
    if (rankOf("magnitude", 0, cell) === 0) return BOTH[0];
    const [first, second] = [isOnTop(0, cell), isOnTop(1, cell)];
    if (first === second) return BOTH[first ? 2 : 1];
    return `on top of ${data.names[first ? 0 : 1]} alone`;
  }
  const put = (changes, save = true) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    if (save) model.save_changes();
    refresh();
  };
  function select(cell) {
    const at = [Math.floor(cell / columns), cell % columns];
    if (String(model.get("selected")) !== String(at)) put({ selected: at });
  }
  function sentence(cell) {
    const of = (map) => {
      const rank = rankOf("magnitude", map, cell);
      return `${data.names[map]} ${numberText(readings[map][cell])}${rank ? `, rank ${rank}` : ""}`;
    };
    return `${data.cells[cell]}: ${of(0)}; ${of(1)}; ${groupOf(cell)}`;
  }

  const tall = data.rows.labels.length;
  const boards = [0, 1].map((map) =>
    buildBoard(data.rows, data.columns, {
      label: `${data.names[map]}: rows are ${data.rows.name}, columns are ${data.columns.name}`,
      width: Math.max(7, Math.min(32, Math.floor(360 / columns))),
      height: tall <= 14 ? 28 : tall <= 26 ? 20 : tall <= 48 ? 15 : 11,
      describe: ({ cell }) => sentence(cell),
      choose: ([row, column]) => select(row * columns + column),
    }),
  );
  const panels = boards.map(({ board }, map) => {
    const panel = make("section", "map", undefined, { "aria-label": data.names[map] });
    panel.append(make("h3", "", data.names[map]), board);
    board.append(buildScale(data.bounds[map], data.digits[map], data.units[map]));
    return panel;
  });
  const scatter = buildScatter(data, { select, sentence });
  const by = buildChoices("Rank by", [["magnitude", "magnitude"], ["value", "value"]], (value) => put({ by: value }));
  const top = buildTop(data.overlaps.length, (value, save) => put({ top: value }, save));
  const status = make("p", "status", "", { role: "status" });
  const [shares, correlation] = [make("p", "said"), make("p", "said", data.correlation)];
  const key = make("p", "said soft");
  const scales = data.shared ? "Both maps are on one scale." : "The maps have different units, and a scale each.";
  key.append(buildMark(true), " on top of both, ", buildMark(false), ` on top of this map alone. ${scales}`);
  const ranked = make("section", "ranked", undefined, { "aria-label": "Ranks in both maps" });
  const [table, controls] = [make("div", "table"), make("div", "controls")];
  controls.append(top.box, by.box);
  ranked.append(make("h3", "", "Ranks in both"), scatter.box, correlation);
  const row = make("div", "beside");
  row.append(...panels, ranked);
  root.replaceChildren(controls, shares, status, row, key, table);

  const every = data.cells.map((_, cell) => cell);
  const first = every.find((cell) => rankOf("magnitude", 0, cell) === 1);
  let shownTop = null;
  function refresh() {
    by.press(model.get("by"));
    top.show(model.get("top"));
    if (shownTop !== model.get("top")) showTop();
    shownTop = model.get("top");
    const at = model.get("selected");
    const chosen = at && boards[0].has(at) ? at[0] * columns + at[1] : first;
    scatter.show(every.map((cell) => [0, 1].map((map) => rankOf(model.get("by"), map, cell))), {
      groups: every.map((cell) => (isOnTop(0, cell) ? 1 : 0) + (isOnTop(1, cell) ? 2 : 0)),
      by: model.get("by"),
      top: model.get("top"),
      chosen,
    });
    for (const row of table.querySelectorAll("tr[data-cell]")) {
      row.classList.toggle("selected", Number(row.dataset.cell) === chosen);
    }
    for (const board of boards) board.mark([Math.floor(chosen / columns), chosen % columns]);
    status.textContent = sentence(chosen);
  }
  function showTop() {
    shares.textContent = data.overlaps[model.get("top") - 1];
    boards.forEach((board, map) =>
      board.show(every.map((cell) => ({ ...readings[map][cell], cell })), (element, { value, cell }) => {
        paint(element, value, data.bounds[map]);
        element.replaceChildren(...(isOnTop(map, cell) ? [buildMark(isOnTop(1 - map, cell))] : []));
      }),
    );
    const best = (cell) => Math.min(...[0, 1].map((map) => rankOf("magnitude", map, cell)));
    const either = every.filter((cell) => isOnTop(0, cell) || isOnTop(1, cell));
    const sorted = either.sort((one, other) => best(one) - best(other) || one - other);
    const groups = [
      ["Both", sorted.filter((cell) => isOnTop(0, cell) && isOnTop(1, cell))],
      [`${data.names[0]} alone`, sorted.filter((cell) => !isOnTop(1, cell))],
      [`${data.names[1]} alone`, sorted.filter((cell) => !isOnTop(0, cell))],
    ];
    table.replaceChildren(buildTable(data, readings, groups, select));
  }
  refresh();
  return refresh;
}

const DATA_TRAITS = ["data", "numbers", "ranks"];
const VIEW_TRAITS = ["top", "by", "selected"];

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map headlens-compare");
    el.append(root);
    let follow = draw(model, root);
    const redraw = () => (follow = draw(model, root));
    const refresh = () => follow();
    for (const name of DATA_TRAITS) model.on(`change:${name}`, redraw);
    for (const name of VIEW_TRAITS) model.on(`change:${name}`, refresh);
    return () => {
      for (const name of DATA_TRAITS) model.off(`change:${name}`, redraw);
      for (const name of VIEW_TRAITS) model.off(`change:${name}`, refresh);
    };
  },
};
