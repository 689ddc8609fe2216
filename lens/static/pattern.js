// The attention of one head over the tokens of a prompt, on a canvas under a strip of tokens: an anywidget module that
// pages inline.
//
// Traits:
//   tokens    what stands at each position; `title` the head's name
//   pattern   float16 [query, key] of one head; or, where it is empty, that of `selected` [row, column] in
//   store     bytes b [row, column, query, key], each for an attention of (b / 255)^2, of `heads` [rows, columns] heads
//   names     what the heads of a grid are called, in order; without them there is no choice of heads here
//   cell      [query, key], or null; `locked` the token whose row is shown, or null
//   role      "destination" to show what a token reads, "source" to show who reads it
//   corner    [query, key] at which the block begins that is drawn, where a prompt is longer than one

import { buildChoices, make } from "./elements.js";
import { buildOverview, drawBlock, ROOM } from "./pattern_canvas.js";

// Positions of a block, each way.
const BLOCK = 64;
const STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  PageUp: [-BLOCK / 2, 0],
  PageDown: [BLOCK / 2, 0],
  Home: [0, -Infinity],
  End: [0, Infinity],
};
const TURNS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
let patternsMade = 0;

const within = (at, size) => Math.max(0, Math.min(at, size - 1));

function fromHalf(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return NaN;
  return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
}

// The numbers of the chosen head [query, key], null where there is no such head.
function openPattern(model, size) {
  const wanted = ["pattern", "store", "heads", "selected"].map((name) => model.get(name));
  const [pattern, store, [, columns] = [], at] = wanted;
  if (pattern?.byteLength) {
    const view = new DataView(pattern.buffer, pattern.byteOffset, pattern.byteLength);
    return Float32Array.from({ length: size * size }, (_, one) => fromHalf(view.getUint16(2 * one, true)));
  }
  if (!store?.byteLength || !at) return null;
  const first = (at[0] * columns + at[1]) * size * size;
  const bytes = new Uint8Array(store.buffer, store.byteOffset + first, size * size);
  return Float32Array.from(bytes, (byte) => (byte / 255) ** 2);
}

function nameOf(model) {
  const [names, at, [, columns] = []] = ["names", "selected", "heads"].map((name) => model.get(name));
  return names?.length && at ? names[at[0] * columns + at[1]] : model.get("title");
}

// A choice of the heads of a grid, where there is one.
function buildHeads(model, choose) {
  const names = model.get("names") ?? [];
  const box = make("label", "head-choice", undefined);
  const select = make("select");
  box.hidden = names.length === 0;
  select.append(...names.map((name, at) => make("option", "", name, { value: at })));
  box.append(make("span", "name", "head"), select);
  const columns = (model.get("heads") ?? [])[1];
  select.addEventListener("change", () => choose([Math.floor(select.value / columns), select.value % columns]));
  const press = (at) => {
    select.value = at ? at[0] * columns + at[1] : "";
  };
  return { box, press };
}

const percentText = (share) => (Number.isNaN(share) ? "missing" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)}%`);

// The words of a prompt, of which one is in the tab order; `hover` hears of the one under the pointer or in focus.
function buildWords(tokens, { hover, lock }) {
  const box = make("div", "words", undefined, { role: "listbox", "aria-label": "Tokens of the prompt" });
  const words = tokens.map((token, at) => {
    const about = { role: "option", tabindex: at ? "-1" : "0", "aria-selected": "false" };
    const word = make("span", "word", token || "\u2423", about);
    word.dataset.at = at;
    return word;
  });
  box.append(...words);
  const at = (event) => event.target.closest?.(".word")?.dataset.at;
  const hear = (event, listener) => at(event) !== undefined && listener(Number(at(event)));
  box.addEventListener("pointerover", (event) => hear(event, hover));
  box.addEventListener("pointerleave", () => hover(null));
  box.addEventListener("focusin", (event) => hear(event, hover));
  box.addEventListener("focusout", () => hover(null));
  box.addEventListener("click", (event) => hear(event, lock));
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at(event) === undefined) return;
    const from = Number(at(event));
    if (event.key in TURNS) {
      const to = within(from + TURNS[event.key], words.length);
      words[from].tabIndex = -1;
      words[to].tabIndex = 0;
      words[to].focus();
    } else if (event.key === "Enter" || event.key === " ") lock(from);
    else if (event.key === "Escape") lock(null);
    else return;
    event.preventDefault();
  });
  return { box, words };
}

function draw(model, root) {
  const tokens = model.get("tokens");
  const size = tokens.length;
  const block = Math.min(BLOCK, size);
  let [numbers, hovered, span] = [null, null, 1];
  const get = (name) => model.get(name);
  const put = (changed) => {
    for (const [name, value] of Object.entries(changed)) model.set(name, value);
    model.save_changes();
  };
  const said = (query, key) =>
    `${query} “${tokens[query]}” reads ${percentText(numbers[query * size + key])} from ${key} “${tokens[key]}”`;
  const cornerNow = () => (get("corner") ?? [0, 0]).map((at) => within(at, size - block + 1));

  const heading = make("p", "heading");
  const status = make("p", "status", "", { role: "status" });
  const number = (patternsMade += 1);
  const sides = [["one that reads", "destination"], ["one that is read", "source"]];
  const roles = buildChoices("a token is shown as the", sides, (role) => put({ role }));
  const strip = buildWords(tokens, {
    hover(at) {
      hovered = at;
      showWords();
    },
    lock: (at) => put({ locked: at === get("locked") ? null : at }),
  });
  const ways = "Arrow keys move, Enter locks a token's row, Escape lets it go.";
  const hint = make("p", "hint", ways, { id: `pattern-hint-${number}` });
  const operated = { tabindex: "0", role: "application", "aria-describedby": hint.id };
  const canvas = make("canvas", "block", undefined, operated);
  const frame = make("div", "frame");
  const overview = buildOverview((corner) => put({ corner }));
  frame.append(canvas, ...(size > block ? [overview.box] : []));
  const heads = buildHeads(model, (selected) => put({ selected }));
  root.replaceChildren(heading, heads.box, roles.box, strip.box, status, frame, hint);

  const cellAt = (event) => {
    const bounds = canvas.getBoundingClientRect();
    const room = (bounds.width * ROOM) / span;
    const side = (bounds.width - room) / block;
    const [column, row] = [(event.clientX - bounds.left - room) / side, (event.clientY - bounds.top - room) / side];
    const [query, key] = cornerNow();
    const at = [query + Math.floor(row), key + Math.floor(column)];
    return row >= 0 && column >= 0 && at.every((one) => one < size) && row < block && column < block ? at : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const at = numbers && cellAt(event);
    if (at) status.textContent = said(...at);
    hovered = at ? at[get("role") === "source" ? 1 : 0] : null;
    showWords();
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    show();
  });
  canvas.addEventListener("click", (event) => cellAt(event) && put({ cell: cellAt(event) }));
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = get("cell") ?? cornerNow();
    if (event.key in STEPS) {
      const to = from.map((at, axis) => within(at + STEPS[event.key][axis], size));
      const corner = cornerNow().map((at, axis) => Math.max(Math.min(at, to[axis]), to[axis] - block + 1));
      put({ cell: to, corner });
    } else if (event.key === "Enter" || event.key === " ") {
      const token = from[get("role") === "source" ? 1 : 0];
      put({ locked: token === get("locked") ? null : token });
    } else if (event.key === "Escape") put({ cell: null, locked: null });
    else return;
    event.preventDefault();
  });

  function showWords() {
    const token = hovered ?? get("locked");
    const reads = get("role") !== "source";
    strip.words.forEach((word, at) => {
      const share = token === null || !numbers ? 0 : numbers[reads ? token * size + at : at * size + token];
      word.style.setProperty("--share", `${100 * Math.sqrt(share || 0)}%`);
      word.classList.toggle("token", at === token);
      word.setAttribute("aria-selected", String(at === get("locked")));
      const both = token === null || !numbers ? "" : `, ${percentText(share)}`;
      word.setAttribute("aria-label", `${at} ${tokens[at]}${both}`);
    });
  }
  function show() {
    heading.textContent = nameOf(model) ? `Attention of ${nameOf(model)}` : "Attention";
    roles.press(get("role"));
    heads.press(get("selected"));
    showWords();
    const [cell, locked] = [get("cell"), get("locked")];
    const more = size > block ? ` Positions ${cornerNow().join(" and ")} onwards of ${size} are drawn.` : "";
    const chosen = numbers && cell ? ` ${said(...cell)}` : "";
    canvas.setAttribute("aria-label", `Rows are queries, columns are keys.${more}${chosen}`);
    if (!numbers) status.textContent = "Choose a head to see where it reads.";
    else if (cell) status.textContent = said(...cell);
    else if (locked === null) status.textContent = "Point at a token, or at a cell of the pattern.";
    else status.textContent = `${locked} “${tokens[locked]}” as ${get("role") === "source" ? sides[1][0] : sides[0][0]}`;
    const about = { numbers, size, block, corner: cornerNow(), tokens, cell, token: locked, role: get("role") };
    span = drawBlock(canvas, root, about);
    if (size > block) overview.draw(root, about);
  }
  function open() {
    numbers = openPattern(model, size);
    show();
  }
  open();
  return { open, show };
}

const PATTERN_TRAITS = {
  redraw: ["tokens", "names"],
  open: ["pattern", "store", "selected", "title"],
  show: ["cell", "locked", "role", "corner"],
};

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map headlens-pattern");
    el.append(root);
    let drawn = draw(model, root);
    const hear = { redraw: () => (drawn = draw(model, root)), open: () => drawn.open(), show: () => drawn.show() };
    for (const [what, names] of Object.entries(PATTERN_TRAITS)) {
      for (const name of names) model.on(`change:${name}`, hear[what]);
    }
    // a canvas does not follow the style sheet by itself
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const themes = new MutationObserver(hear.show);
    dark.addEventListener("change", hear.show);
    themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
    return () => {
      dark.removeEventListener("change", hear.show);
      themes.disconnect();
      for (const [what, names] of Object.entries(PATTERN_TRAITS)) {
        for (const name of names) model.off(`change:${name}`, hear[what]);
      }
    };
  },
};
