// A map of attention heads and a table of the strongest, in plain elements: an anywidget module that reports inline.
//
// Traits: `selected` [row, column] as indices, or null; `order`, "head" or "effect", in which each row's heads lie;
// `numbers`, float32 [part, (values, low, high), cell] where data has none of its own (NaN is missing); and `data`:
//   dims     [{ name, labels, tokens }]: the first `outer` span the picture (one: bars, two: rows and columns), the
//            others, if any, are its entries; tokens [text, remark] a label, or null
//   names    what the cells of the picture are called, in order; `entries` what an entry adds to that ([""] if none)
//   parts    [{ metric, units, bound, digits, step, values, low, high, level }]: the numbers by metric, flat, in the
//            order of dims; null is missing; n stands for (n + 1/2) * step, or for itself without a step
//   noun     what one cell is, such as "head"; `top` how many lines the table has; `by` what parts differ in (metric)

import { buildBoard } from "./board.js";
import { axisOf, buildBar, buildChoices, intervalText, make, paint, shown } from "./elements.js";

const STRONGEST = -1;
// Pixels that five numbers under a scale need.
const ROOMY = 260;
const LONE = { name: "", labels: [""], tokens: null };

// The numbers of a part that lie in bytes, which may not start where float32 may.
function fromBytes(bytes, at, count) {
  const view = new DataView(bytes.buffer, bytes.byteOffset + 12 * at * count, 12 * count);
  const all = Array.from({ length: 3 * count }, (_, one) => view.getFloat32(4 * one, true));
  const known = all.map((number) => (Number.isNaN(number) ? null : number));
  return [known.slice(0, count), known.slice(count, 2 * count), known.slice(2 * count)];
}

function decoded(part, at, data, bytes) {
  if (!part.values) {
    const [values, low, high] = fromBytes(bytes, at, data.names.length * data.entries.length);
    return { ...part, values, low: part.level === null ? null : low, high: part.level === null ? null : high };
  }
  const number = (n) => (n === null || part.step === null ? n : (n + 0.5) * part.step);
  const [values, low, high] = [part.values, part.low, part.high].map((numbers) => numbers?.map(number) ?? null);
  return { ...part, values, low, high };
}

function strongest(values, first, count) {
  let [best, largest] = [0, -1];
  for (let at = 0; at < count; at++) {
    const value = values[first + at];
    if (value !== null && Math.abs(value) > largest) [best, largest] = [at, Math.abs(value)];
  }
  return best;
}

// The tokens of a cell, given its place in the flat numbers: one for each dim that has them.
function tokensAt(dims, at) {
  const found = [];
  for (const { labels, tokens } of [...dims].reverse()) {
    if (tokens) found.unshift(tokens[at % labels.length]);
    at = Math.floor(at / labels.length);
  }
  return found.filter(([text]) => text);
}

// What is known of one cell of the picture at one entry.
function read(data, part, cell, entry) {
  const first = cell * data.entries.length;
  const chosen = entry === STRONGEST ? strongest(part.values, first, data.entries.length) : entry;
  const at = first + chosen;
  const [value, low, high] = [part.values, part.low, part.high].map((numbers) => numbers?.[at] ?? null);
  const name = data.names[cell] + data.entries[chosen];
  return { cell, entry: chosen, name, tokens: tokensAt(data.dims, at), value, low, high, digits: part.digits };
}

function tokenText(tokens) {
  return tokens.map(([text]) => `“${text}”`).join(" → ");
}

function remarkedText(tokens) {
  return tokens.map(([text, remark]) => `“${text}”${remark && ` (${remark})`}`).join(" → ");
}

function sentence({ name, tokens, value, low, high, digits }) {
  const number = value === null ? "missing" : `${shown(value, digits)} ${intervalText({ low, high }, digits)}`;
  return `${[name, remarkedText(tokens)].join(" ").trim()}: ${number}`.trimEnd();
}

function buildLegend(part, { bars, readings, width }) {
  const legend = make("div", "legend");
  const numbers = make("div", "numbers");
  const [from, to] = bars ? axisOf(readings, part.step ?? 0) : [-part.bound, part.bound];
  const between = bars || part.digits === null || width < ROOMY ? [0] : [from / 2, 0, to / 2];
  const share = (number) => (number - from) / (to - from);
  // the number of the middle steps back where it would run into that of an end
  for (const number of [from, ...between.filter((one) => share(one) > 0.2 && share(one) < 0.8), to]) {
    const tick = make("span", "", shown(number, part.digits));
    tick.style.left = `${100 * share(number)}%`;
    numbers.append(tick);
  }
  if (!bars) legend.append(make("div", "scale", undefined, { role: "img", "aria-label": "Colour scale" }));
  legend.append(numbers, make("div", "units", part.units));
  if (part.values.includes(null)) {
    const missing = make("div", "missing-entry");
    missing.append(make("span", "cell missing"), make("span", "", "missing: not measured, or undefined"));
    legend.append(missing);
  }
  return legend;
}

function buildTable(part, readings, { title, top, select }) {
  const present = readings.filter(({ value }) => value !== null);
  const lines = present.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, top);
  const axis = axisOf(lines, part.step ?? 0);
  const table = make("table", "top");
  table.append(make("caption", "", lines.length ? `The ${lines.length} largest by magnitude` : "All are missing here"));
  table.classList.toggle("long", lines.some((line) => `${line.name} ${tokenText(line.tokens)}`.length > 36));
  const titles = make("tr");
  const columns = [title, "", "value", ...(part.low ? [`${Math.round(100 * part.level)}% interval`] : [])];
  columns.forEach((name, at) => titles.append(make("th", at > 1 ? "number" : "", name, { scope: "col" })));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(titles);
  for (const line of lines) {
    const row = table.tBodies[0].insertRow();
    row.dataset.cell = line.cell;
    const words = row.insertCell();
    words.append(make("button", "", line.name, { type: "button" }));
    if (line.tokens.length) words.append(make("span", "tokens", tokenText(line.tokens)));
    row.insertCell().append(buildBar(line, axis));
    row.append(make("td", "number", shown(line.value, part.digits)));
    if (part.low) row.append(make("td", "number interval", intervalText(line, part.digits)));
    row.addEventListener("click", () => select(line.cell));
  }
  return table;
}

// The board of the picture, and the board of one cell's entries where there are any.
function buildBoards(data, { chooseCell, chooseEntry, ranked }) {
  const [rows, given = LONE] = data.dims.slice(0, data.outer);
  const ranks = { name: "rank of the head within its layer", labels: given.labels.map((_, at) => String(at + 1)) };
  const columns = ranked ? { ...ranks, tokens: null } : given;
  const inner = data.dims.slice(data.outer);
  const fit = (room, count, largest) => Math.max(7, Math.min(largest, Math.floor(room / count)));
  const count = rows.labels.length;
  const map = buildBoard(rows, columns, {
    label: `Rows are ${rows.name}${columns.name && `, columns are ${columns.name}`}`,
    width: data.outer === 1 ? 420 : fit(given.name === "head" ? 600 : 960, columns.labels.length, 40),
    height: count <= 14 ? 30 : count <= 26 ? 22 : count <= 48 ? 17 : 12,
    describe: sentence,
    choose: ([row, column]) => chooseCell(row * columns.labels.length + column),
  });
  if (!inner.length) return { map, columns: columns.labels.length };
  const [across, down = LONE] = inner.toReversed();
  const side = fit(440, Math.max(across.labels.length, down.labels.length), 26);
  const strip = inner.length === 1;
  const entries = buildBoard(down, across, {
    label: `Every ${inner.map(({ name }) => name).join(" and ")} of the chosen cell`,
    width: strip ? fit(960, across.labels.length, 40) : side,
    height: strip ? 30 : side,
    describe: sentence,
    choose: ([row, column]) => chooseEntry(row * across.labels.length + column),
  });
  return { map, entries, columns: columns.labels.length, entryColumns: across.labels.length, strip };
}

// For each place of the board the cell that lies there: its own, or in each row the largest first, missing ones last.
function cellsInPlace(readings, columns, ranked) {
  const cells = readings.map((_, at) => at);
  if (!ranked) return cells;
  const rowOf = (cell) => Math.floor(cell / columns);
  const worth = (cell) => readings[cell].value ?? -Number.MAX_VALUE;
  return cells.sort((one, other) => rowOf(one) - rowOf(other) || worth(other) - worth(one) || one - other);
}

// `kept` is the part and the entry that were shown before, if the same map is drawn anew.
function draw(model, root, kept = {}) {
  const data = model.get("data");
  const parts = data.parts.map((part, at) => decoded(part, at, data, model.get("numbers")));
  // a page without this trait has nobody to hear of it
  const sortable = data.outer === 2 && data.dims[1].name === "head" && model.get("order") !== undefined;
  const ranked = sortable && model.get("order") === "effect";
  const bars = data.outer === 1;
  const inner = data.dims.slice(data.outer);
  const innerName = inner.map(({ name }) => name).join(" and ");
  let [part, entry, cell] = [parts[kept.part ?? 0], kept.entry ?? STRONGEST, null];
  let [readings, places] = [[], []];

  const boards = buildBoards(data, {
    chooseCell: (place) => select(places[place]),
    chooseEntry: (chosen) => refresh({ entry: chosen }),
    ranked,
  });
  const orders = buildChoices("heads in order of", [["head", "head"], ["effect", "effect"]], reorder);
  const named = parts.map((one) => [one.metric, one]);
  const metrics = buildChoices(data.by ?? "metric", named, (one) => refresh({ part: one }));
  const where = buildChoices(
    `every ${data.noun} at`,
    [[`its strongest ${innerName}`, STRONGEST]],
    () => refresh({ entry: STRONGEST }),
  );
  const [output, heading] = [make("output", ""), make("p", "heading")];
  const status = make("p", "status", "", { role: "status" });
  const [map, detail, table] = [make("div", "map"), make("div", "detail"), make("div", "table")];
  const legend = make("div", "legend");
  where.box.append(output);
  map.append(boards.map.board);
  if (boards.entries) {
    detail.classList.toggle("strip", boards.strip);
    detail.append(heading, boards.entries.board);
  }
  const side = make("div", "side");
  side.append(...(boards.entries && !boards.strip ? [detail] : []), table);
  root.replaceChildren(
    ...(parts.length > 1 || parts[0].metric ? [metrics.box] : []),
    ...(boards.strip ? [detail] : []),
    ...(boards.entries ? [where.box] : []),
    ...(sortable ? [orders.box] : []),
    status,
    map,
    side,
  );
  boards.map.board.append(legend);

  const placeOf = (index, columns) => [Math.floor(index / columns), index % columns];
  const colour = (element, { value }) => paint(element, value, part.bound);
  function select(chosen) {
    cell = chosen;
    const at = placeOf(cell, boards.columns);
    boards.map.mark(placeOf(places.indexOf(cell), boards.columns));
    for (const row of table.querySelectorAll("tbody tr")) row.classList.toggle("selected", +row.dataset.cell === cell);
    status.textContent = sentence(readings[cell]);
    if (boards.entries) {
      heading.textContent = `${data.names[cell]} by ${innerName}`;
      boards.entries.show(data.entries.map((_, one) => read(data, part, cell, one)), colour);
      boards.entries.mark(placeOf(readings[cell].entry, boards.entryColumns));
    }
    if (String(model.get("selected")) !== String(at)) {
      model.set("selected", at);
      model.save_changes();
    }
  }
  function reorder(order) {
    model.set("order", order);
    model.save_changes();
  }
  // What the model has selected, where this map has such a cell.
  function given() {
    const at = model.get("selected");
    return at && boards.map.has(at) ? at[0] * boards.columns + at[1] : null;
  }
  function refresh(changed) {
    ({ part, entry } = { part, entry, ...changed });
    metrics.press(part);
    where.press(entry);
    output.textContent =
      entry === STRONGEST ? "" : `${data.entries[entry]} ${tokenText(tokensAt(inner, entry))}`.trim();
    readings = data.names.map((_, one) => read(data, part, one, entry));
    places = cellsInPlace(readings, boards.columns, ranked);
    const axis = axisOf(readings, part.step ?? 0);
    const bar = (element, reading) => {
      element.classList.toggle("missing", reading.value === null);
      element.replaceChildren(...(reading.value === null ? [] : [buildBar(reading, axis)]));
    };
    boards.map.show(places.map((one) => readings[one]), bars ? bar : colour);
    legend.replaceChildren(...buildLegend(part, { bars, readings, width: boards.map.width }).childNodes);
    table.replaceChildren(buildTable(part, readings, { title: data.noun, top: data.top, select }));
    select(cell ?? given() ?? Number(table.querySelector("tbody tr")?.dataset.cell ?? 0));
  }
  orders.press(ranked ? "effect" : "head");
  refresh({});
  return {
    follow: () => given() !== null && select(given()),
    kept: () => ({ part: parts.indexOf(part), entry }),
    focus: () => orders.box.querySelector("[aria-pressed=true]").focus(),
  };
}

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map");
    el.append(root);
    let drawn = draw(model, root);
    const listeners = {
      data: () => (drawn = draw(model, root)),
      selected: () => drawn.follow(),
      order: () => {
        const within = root.contains(document.activeElement);
        drawn = draw(model, root, drawn.kept());
        // the button that was pressed is a new one now
        if (within) drawn.focus();
      },
    };
    for (const [name, listener] of Object.entries(listeners)) model.on(`change:${name}`, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) model.off(`change:${name}`, listener);
    };
  },
};
