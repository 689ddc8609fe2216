// Where heads look in a picture, word by word, in plain elements: an anywidget module that reports inline.
//
// Traits: `token`, the chosen token's index, `head`, whose attention is drawn: [] for the mean over all heads, [layer]
// for that over a layer's, or [layer, head]; and `data`:
//   pictures  their addresses; `grids` [rows, columns, picture, level] of patches over them, where level 1 is of finer
//             tiles; `cells` [grid, row, column] of each patch
//   layers, heads   how many there are; `kept` [[layer, head]]: those whose patches are here
//   parts     [{ name, answer, tokens, prompt, rows, steps, shares, top }]: a run each, such as before and after an edit;
//             tokens from `prompt` on are the answer's. `rows` [token, entry, patch] are whole numbers of `bits` bits
//             that stand for n * steps[token, entry], where entries are the mean over all heads, those over each layer's,
//             and the kept heads; `shares` [token, layer, head] on the image are in parts of 65,535; all of it base64
//   top       how many lines the table has

import { buildBoard } from "./board.js";
import { buildChoices, make, paint } from "./elements.js";
import { buildOverlay } from "./overlay.js";
import { buildStrip } from "./strip.js";

const FULL = 65535;

function unpacked(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function openPart(part, data) {
  const rows = unpacked(part.rows, data.bits === 16 ? Uint16Array : Uint8Array);
  return { ...part, rows, steps: unpacked(part.steps, Float32Array), shares: unpacked(part.shares, Uint16Array) };
}

const labelOf = ([layer, head]) => `L${layer}H${head}`;

function headName(head) {
  if (head.length === 0) return "the mean of all heads";
  return head.length === 1 ? `the mean of layer ${head[0]}` : labelOf(head);
}

// Where a choice of heads is among the entries; null for a head whose patches are not here.
function entryOf(data, head) {
  if (head.length < 2) return head.length === 0 ? 0 : 1 + head[0];
  const at = data.kept.findIndex(([layer, one]) => layer === head[0] && one === head[1]);
  return at < 0 ? null : 1 + data.layers + at;
}

// The attention of a token's row over all patches, with the step that its numbers are known to.
function rowOf(data, part, token, head) {
  const [entry, patches] = [entryOf(data, head), data.cells.length];
  if (entry === null) return null;
  const at = token * (1 + data.layers + data.kept.length) + entry;
  const step = part.steps[at];
  return { values: Array.from(part.rows.subarray(at * patches, (at + 1) * patches), (n) => n * step), step };
}

function shareOf(data, part, token, layer, head) {
  return part.shares[(token * data.layers + layer) * data.heads + head] / FULL;
}

// A share in percent, to as many places as it is known, two at most.
function percent(share, step = 0) {
  const places = step > 0 ? Math.max(0, Math.min(2, Math.floor(-Math.log10(100 * step)))) : 1;
  return `${(100 * share).toFixed(places).replace("-", "\u2212")}%`;
}

// What the board of heads shows: a run's shares, or how they changed from the first run to the last.
function buildViews(parts) {
  if (parts.length < 2) return [[parts[0].name, { part: 0 }]];
  return [...parts.map(({ name }, part) => [name, { part }]), ["change", { part: parts.length - 1, from: 0 }]];
}

function buildTop(part, count, choose) {
  const table = make("table", "top");
  const title = part.name ? `Most on the image over the answer, ${part.name}` : "Most on the image over the answer";
  table.append(make("caption", "", title), make("tbody"));
  for (const { head, label, share } of part.top.slice(0, count)) {
    const row = table.tBodies[0].insertRow();
    row.dataset.head = String(head);
    row.insertCell().append(make("button", "", label, { type: "button" }));
    row.append(make("td", "number", percent(share)));
    row.addEventListener("click", () => choose(head));
  }
  return table;
}

// Which picture a grid lies on, and whether it is the one of tiles.
function gridName(data, grid) {
  const [, , picture, level] = data.grids[grid];
  return `picture${data.pictures.length > 1 ? ` ${picture}` : ""}${level > 0 ? " in tiles" : ""}`;
}

// A run's answer, its words to choose from, and its pictures with the attention over them.
function buildPanel(data, part, { hover, choose }) {
  const box = make("section", "panel", undefined, { "aria-label": part.name || "gaze" });
  const strip = buildStrip(part.tokens, part.prompt, choose);
  const overlays = data.grids.map(([rows, columns, picture], grid) => {
    const cells = data.cells.map((cell, patch) => [...cell, patch]).filter(([own]) => own === grid);
    return buildOverlay(data.pictures[picture], [rows, columns], cells, { label: gridName(data, grid), hover });
  });
  if (part.name) box.append(make("h3", "", part.name));
  const status = make("p", "status", "", { role: "status" });
  box.append(strip.box, ...overlays.map(({ box: one }) => one), status);
  return { box, strip, overlays, status };
}

function draw(model, root) {
  const data = model.get("data");
  const parts = data.parts.map((part) => openPart(part, data));
  const views = buildViews(parts);
  const given = model.get("head");
  const place = ([layer, head]) => layer < data.layers && (head ?? 0) < data.heads;
  let head = Array.isArray(given) && (given.length === 0 || place(given)) ? given : (data.kept.length ? null : []);
  // without a choice, the head that looks most over the answer and is here
  head ??= parts[0].top.map((one) => one.head).find((one) => entryOf(data, one) !== null) ?? data.kept[0];
  let token = Math.max(0, model.get("token") ?? parts[0].prompt);
  let [view, under] = [views[0][1], null];

  const tokenAt = (part) => Math.min(token, part.tokens.length - 1);
  const panels = parts.map((part) =>
    buildPanel(data, part, {
      hover: (patch) => showUnder(patch),
      choose: (chosen) => refresh({ token: chosen }),
    }),
  );
  const choices = buildChoices(
    "drawn",
    [["mean of all heads", "all"], ["mean of the layer", "layer"], ["one head", "head"]],
    (kind) => refresh({ head: kind === "all" ? [] : kind === "layer" ? [lastHead[0]] : lastHead }),
  );
  let lastHead = head.length === 2 ? head : (data.kept[0] ?? [head[0] ?? 0, 0]);
  const looks = buildChoices("colours", [["on", true], ["off", false]], (on) => show(on));
  const dim = (name, count) => ({ name, labels: Array.from({ length: count }, (_, at) => String(at)), tokens: null });
  const board = buildBoard(dim("layer", data.layers), dim("head", data.heads), {
    label: "Share of attention on the image; rows are layers, columns are heads",
    width: Math.max(9, Math.min(30, Math.floor(420 / data.heads))),
    height: data.layers <= 14 ? 26 : data.layers <= 26 ? 18 : 12,
    describe: ({ text }) => text,
    choose: ([row, column]) => refresh({ head: [row, column] }),
  });
  const shown = buildChoices("heads", views, (chosen) => refresh({ view: chosen }));
  const tables = parts.map((part) => buildTop(part, data.top, (chosen) => refresh({ head: chosen })));
  const [heading, note] = [make("p", "heading"), make("p", "note")];
  const [bar, row, side] = [make("div", "bar-of-choices"), make("div", "panels"), make("div", "heads")];
  bar.append(choices.box, looks.box);
  row.append(...panels.map(({ box }) => box));
  side.append(heading, ...(views.length > 1 ? [shown.box] : []), board.board, note, ...tables);
  root.replaceChildren(bar, row, side);

  function show(on) {
    looks.press(on);
    for (const { overlays } of panels) for (const one of overlays) one.box.classList.toggle("bare", !on);
  }

  // The number under the pointer, in each run; without one, how much of the row is on the image.
  function showUnder(patch) {
    under = patch;
    parts.forEach((part, at) => {
      const [now, own] = [tokenAt(part), rowOf(data, part, tokenAt(part), head)];
      const [status, word] = [panels[at].status, `“${part.tokens[now]}”`];
      if (own === null) {
        status.textContent = `The patches of ${headName(head)} are not on this page.`;
        return;
      }
      if (patch === null) {
        const total = own.values.reduce((sum, value) => sum + value, 0);
        status.textContent = `${headName(head)} at ${word}: ${percent(total)} of its attention is on the image`;
        return;
      }
      const [grid, line, column] = data.cells[patch];
      const where = `${data.grids.length > 1 ? `${gridName(data, grid)}, ` : ""}row ${line}, column ${column}`;
      status.textContent = `${headName(head)} at ${word}, ${where}: ${percent(own.values[patch], own.step)}`;
    });
  }

  function readings() {
    const [part, from] = [parts[view.part], view.from === undefined ? null : parts[view.from]];
    const [now, before] = [tokenAt(part), from && tokenAt(from)];
    return Array.from({ length: data.layers * data.heads }, (_, at) => {
      const one = [Math.floor(at / data.heads), at % data.heads];
      const share = shareOf(data, part, now, ...one);
      const value = from ? share - shareOf(data, from, before, ...one) : share;
      const here = entryOf(data, one) === null ? " (its patches are not on this page)" : "";
      const sign = from && value > 0 ? "+" : "";
      return { value, text: `${labelOf(one)}: ${sign}${percent(value)}${from ? " (change)" : " on the image"}${here}` };
    });
  }

  function refresh(changed) {
    ({ head, token, view } = { head, token, view, ...changed });
    if (head.length === 2) lastHead = head;
    choices.press(["all", "layer", "head"][head.length]);
    shown.press(view);
    const rows = parts.map((part) => rowOf(data, part, tokenAt(part), head));
    // one scale for all runs, so that they can be compared
    const bound = Math.max(1e-9, ...rows.flatMap((one) => (one ? one.values : [])));
    parts.forEach((part, at) => {
      panels[at].strip.mark(tokenAt(part));
      for (const overlay of panels[at].overlays) overlay.show(rows[at]?.values ?? null, bound);
    });
    const cells = readings();
    const most = Math.max(1e-9, ...cells.map(({ value }) => Math.abs(value)));
    board.show(cells, (element, { value }) => paint(element, value, most));
    board.mark(lastHead);
    heading.textContent =
      view.from === undefined
        ? `Share of attention on the image at “${parts[view.part].tokens[tokenAt(parts[view.part])]}”`
        : "Change of the share of attention on the image";
    note.textContent = `Full colour: ${percent(bound)} of a row on the picture, ${percent(most)} on the board.`;
    for (const line of root.querySelectorAll("tr[data-head]")) {
      line.classList.toggle("selected", line.dataset.head === String(head));
    }
    showUnder(under);
    for (const [name, value] of Object.entries({ token, head })) {
      if (String(model.get(name)) === String(value) && model.get(name) !== null) continue;
      model.set(name, value);
      model.save_changes();
    }
  }
  show(true);
  refresh({});
  // What the model has chosen meanwhile.
  return () => {
    const [one, other] = [model.get("token"), model.get("head")];
    const changed = { ...(Number.isInteger(one) && one >= 0 && { token: one }), ...(Array.isArray(other) && { head: other }) };
    if (String(changed.token ?? token) !== String(token) || String(changed.head ?? head) !== String(head)) refresh(changed);
  };
}

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map headlens-gaze");
    el.append(root);
    let follow = draw(model, root);
    const redraw = () => (follow = draw(model, root));
    const rechoose = () => follow();
    model.on("change:data", redraw);
    for (const name of ["token", "head"]) model.on(`change:${name}`, rechoose);
    return () => {
      model.off("change:data", redraw);
      for (const name of ["token", "head"]) model.off(`change:${name}`, rechoose);
    };
  },
};
