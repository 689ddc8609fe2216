// The picture of a head graph: boxes and curves at the places they are given, in a frame that scrolls and zooms. One
// box is in the tab order, and the arrow keys go on from it.

import { make, shown } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 1.25;
const [SMALLEST, LARGEST] = [0.2, 3];
// Names are still read at this size; below it the graph scrolls rather than shrinks when it is fitted to the page.
const READABLE = 0.82;
const PAN = 90;
// How thick the weakest and the strongest edge are.
const [THIN, THICK] = [1, 5];
const USES = { q: "query", k: "key", v: "value" };

export const portWord = (port) => USES[port] ?? "";

function draws(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function colour(element, score, bound) {
  const share = score === null ? 0 : Math.min(1, Math.abs(score) / bound);
  element.classList.toggle("unknown", score === null);
  element.classList.toggle("negative", score !== null && score < 0);
  element.style.setProperty("--share", share.toFixed(3));
  return share;
}

function edgeElement(data, edge) {
  const [sender, receiver, port, score] = edge;
  const element = draws("path", { class: "edge" });
  element.style.strokeWidth = `${(THIN + (THICK - THIN) * colour(element, score, data.bounds.edge)).toFixed(2)}px`;
  const use = portWord(port) ? ` (${portWord(port)})` : "";
  const value = score === null ? "no score" : shown(score, data.digits.edge);
  element.append(draws("title", {}, `${data.nodes[sender].name} \u2192 ${data.nodes[receiver].name}${use}: ${value}`));
  return element;
}

function nodeElement(data, node, label) {
  const [width, height] = data.box;
  const element = draws("g", { class: "node", role: "button", tabindex: "-1", "aria-label": label });
  const radius = node.kind === "mlp" ? height / 2 : 4;
  const box = draws("rect", { x: -width / 2, y: -height / 2, width, height, rx: radius });
  colour(element, node.score, data.bounds.node);
  element.append(draws("title", {}, label), box, draws("text", { y: 4 }, node.name));
  return element;
}

function groundElements({ rows, bands, width }) {
  const drawn = [];
  for (const [name, y] of rows) {
    drawn.push(draws("line", { class: "row-line", x1: 52, x2: width, y1: y, y2: y }));
    if (name) drawn.push(draws("text", { class: "row-name", x: 12, y: y + 4 }, name));
  }
  for (const [name, from, to] of bands) {
    drawn.push(draws("text", { class: "band-name", x: (from + to) / 2, y: 16 }, name));
    drawn.push(draws("line", { class: "band-line", x1: from, x2: to, y1: 22, y2: 22 }));
  }
  return drawn;
}

// The node that an arrow key leads to: the next in the row, or the nearest in the next row that has one.
function neighbour(places, from, key) {
  const [x, y] = places[from];
  const along = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let [best, least] = [from, [Infinity, Infinity]];
  places.forEach(([left, top], at) => {
    const [right, down] = [left - x, top - y];
    const ahead = along[0] ? (down === 0 ? right * along[0] : 0) : down * along[1];
    const cost = [ahead, Math.abs(along[0] ? down : right)];
    if (ahead > 0 && (cost[0] < least[0] || (cost[0] === least[0] && cost[1] < least[1]))) [best, least] = [at, cost];
  });
  return best;
}

// `describe` says a node in words, `choose` hears of the one chosen (-1: none), `zoom` of a new zoom, `settle` says it.
export function buildStage(data, { describe, choose, zoom, settle }) {
  const box = make("div", "stage", undefined, { tabindex: "-1" });
  const keys = "Arrow keys go from node to node, Escape chooses none, plus, minus and 0 zoom, Shift and arrows scroll.";
  const help = `Head graph of ${data.nodes.length} nodes. ${keys}`;
  const svg = draws("svg", { role: "group", "aria-label": help });
  const [ground, edges, nodes] = ["ground", "edges", "nodes"].map((name) => draws("g", { class: name }));
  svg.append(ground, edges, nodes);
  box.append(svg);
  const lines = data.edges.map((edge) => edgeElement(data, edge));
  const boxes = data.nodes.map((node, at) => nodeElement(data, node, describe(at)));
  boxes.forEach((element, at) => (element.dataset.at = at));
  // strong edges lie on top
  edges.append(...[...lines].reverse());
  nodes.append(...boxes);

  let [layout, now, tabbed] = [data.layouts[0], 1, 0];
  // the whole graph if its names can still be read, else its width, else what can be read
  function fitted() {
    const room = parseFloat(getComputedStyle(box).maxHeight) || Infinity;
    const fits = Math.min((box.clientWidth - 4) / layout.width, Math.max(READABLE, (room - 4) / layout.height));
    return Math.min(1.15, Math.max(READABLE, fits));
  }
  function scale(asked) {
    // what stood in the middle stays there
    const middle = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2].map((one) => one / now);
    const next = asked || fitted();
    const fresh = !svg.hasAttribute("width");
    if (next === now && !fresh) return;
    now = next;
    svg.setAttribute("width", layout.width * now);
    svg.setAttribute("height", layout.height * now);
    if (fresh) {
      box.scrollLeft = (layout.width * now - box.clientWidth) / 2;
      return;
    }
    box.scrollLeft = middle[0] * now - box.clientWidth / 2;
    box.scrollTop = middle[1] * now - box.clientHeight / 2;
  }
  const zoomBy = (factor) => zoom(Math.min(LARGEST, Math.max(SMALLEST, now * factor)));
  const pan = (right, down) => box.scrollBy({ left: right * PAN, top: down * PAN });

  const buttons = make("div", "choices view", undefined, { role: "group", "aria-label": "Zoom and scroll" });
  for (const [text, name, act] of [
    ["\u2212", "Zoom out", () => zoomBy(1 / STEP)],
    ["+", "Zoom in", () => zoomBy(STEP)],
    ["fit", "Fit the width", () => zoom(0)],
    ["\u2190", "Scroll left", () => pan(-1, 0)],
    ["\u2191", "Scroll up", () => pan(0, -1)],
    ["\u2193", "Scroll down", () => pan(0, 1)],
    ["\u2192", "Scroll right", () => pan(1, 0)],
  ]) {
    const button = make("button", "", text, { type: "button", "aria-label": name, title: name });
    button.addEventListener("click", act);
    buttons.append(button);
  }

  const nodeOf = (event) => event.target.closest?.(".node");
  svg.addEventListener("click", (event) => nodeOf(event) && choose(Number(nodeOf(event).dataset.at)));
  svg.addEventListener("keydown", (event) => {
    const from = nodeOf(event);
    if (!from || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = /^Arrow(Left|Right|Up|Down)$/.exec(event.key)?.[1];
    const at = Number(from.dataset.at);
    const acts = {
      "+": () => zoomBy(STEP), "=": () => zoomBy(STEP), "-": () => zoomBy(1 / STEP), 0: () => zoom(0),
      Escape: () => choose(-1), Enter: () => choose(at), " ": () => choose(at),
    };
    const act = acts[event.key];
    if (!arrow && !act) return;
    event.preventDefault();
    if (act) return act();
    if (event.shiftKey) return pan({ Left: -1, Right: 1 }[arrow] ?? 0, { Up: -1, Down: 1 }[arrow] ?? 0);
    const to = neighbour(layout.nodes, at, event.key);
    choose(to);
    focus(to);
  });
  box.addEventListener("wheel", (event) => {
    // a wheel alone scrolls, as everywhere on the page
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? STEP : 1 / STEP);
  }, { passive: false });
  let dragged = null;
  box.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0 && !nodeOf(event)) dragged = [event.clientX, event.clientY];
  });
  box.addEventListener("pointermove", (event) => {
    if (!dragged || !(event.buttons & 1)) return (dragged = null);
    box.scrollBy(dragged[0] - event.clientX, dragged[1] - event.clientY);
    dragged = [event.clientX, event.clientY];
  });
  const watch = new ResizeObserver(() => settle() || scale(0));
  watch.observe(box);

  function tab(at) {
    boxes[tabbed].setAttribute("tabindex", "-1");
    boxes[at].setAttribute("tabindex", "0");
    tabbed = at;
  }
  tab(data.nodes.length - 1);
  function focus(at) {
    boxes[at].focus({ preventScroll: true });
    reveal(at);
  }
  // Scroll the frame alone, and only where the node lies outside.
  function reveal(at) {
    const [x, y] = layout.nodes[at].map((one) => one * now);
    const [wide, high] = data.box.map((one) => one * now);
    if (x - wide < box.scrollLeft) box.scrollLeft = x - wide;
    if (x + wide > box.scrollLeft + box.clientWidth) box.scrollLeft = x + wide - box.clientWidth;
    if (y - 2 * high < box.scrollTop) box.scrollTop = y - 2 * high;
    if (y + 2 * high > box.scrollTop + box.clientHeight) box.scrollTop = y + 2 * high - box.clientHeight;
  }

  return {
    box,
    buttons,
    scale,
    focus,
    reveal,
    stop: () => watch.disconnect(),
    lay(given, paths) {
      layout = given;
      svg.setAttribute("viewBox", `0 0 ${layout.width} ${layout.height}`);
      svg.removeAttribute("width");
      ground.replaceChildren(...groundElements(layout));
      layout.nodes.forEach(([x, y], at) => boxes[at].setAttribute("transform", `translate(${x} ${y})`));
      lines.forEach((line, at) => {
        const [x, y, ...rest] = paths.subarray(8 * at, 8 * at + 8);
        line.setAttribute("d", `M${x} ${y}C${rest.join(" ")}`);
      });
    },
    // Draw these edges; with a node chosen, all but its own step back.
    show(on, chosen) {
      const near = new Set(chosen < 0 ? [] : [chosen]);
      const joined = new Set();
      data.edges.forEach(([sender, receiver], at) => {
        const own = sender === chosen || receiver === chosen;
        lines[at].classList.toggle("off", !on[at]);
        lines[at].classList.toggle("own", chosen >= 0 && own);
        for (const end of on[at] ? [sender, receiver] : []) {
          joined.add(end);
          if (own) near.add(end);
        }
      });
      svg.classList.toggle("chosen", chosen >= 0);
      boxes.forEach((element, at) => {
        element.classList.toggle("lone", !joined.has(at));
        element.classList.toggle("near", near.has(at));
        element.classList.toggle("selected", at === chosen);
        element.setAttribute("aria-pressed", String(at === chosen));
      });
      if (chosen >= 0) tab(chosen);
    },
    find(hits) {
      boxes.forEach((element, at) => element.classList.toggle("found", hits.has(at)));
    },
  };
}
