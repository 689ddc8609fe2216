// The ranks of cells in two maps, a point each. By magnitude the axes are logarithmic, since the first ranks matter,
// and a square holds what is on top of both. One point is in the tab order; left and right go through the first map's
// ranks.

import { make } from "./elements.js";

const SPACE = "http://www.w3.org/2000/svg";
const [SIDE, EDGE, END] = [400, 46, 14];
const GROUPS = ["neither", "first", "second", "both"];
const SIZE = [2.5, 5, 5, 6];

function svgOf(tag, attributes, text) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// A diamond on top of both, a triangle that points to the map that has it on top alone, else a dot.
function shapeOf(group) {
  const r = SIZE[group];
  if (group === 3) return `M0 ${-r}L${r} 0L0 ${r}L${-r} 0Z`;
  if (group === 2) return `M0 ${-r}L${r} ${0.7 * r}H${-r}Z`;
  if (group === 1) return `M${r} 0L${-0.7 * r} ${-r}V${r}Z`;
  return `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`;
}

const ticksOf = (count, by) => {
  if (by === "value") return [1, Math.round(count / 2), count];
  return [1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter((rank) => rank < 0.8 * count).concat(count);
};

export function buildScatter(data, { select, sentence }) {
  const box = make("div", "scatter");
  const what = `Ranks of ${data.present} cells: across in ${data.names[0]}, upwards in ${data.names[1]}.`;
  const label = `${what} Left and right arrows go through the ranks.`;
  const svg = svgOf("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "group", "aria-label": label });
  const [axes, dots] = [svgOf("g", { class: "axes" }), svgOf("g", { class: "dots" })];
  const name = svgOf("text", { class: "point-name" });
  svg.append(axes, dots, name);
  box.append(svg);
  const points = data.cells.map((_, cell) => {
    const point = svgOf("path", { class: "point", role: "button", tabindex: "-1" });
    point.dataset.cell = cell;
    return point;
  });
  let [ranks, places, chosen, tabbed] = [[], [], null, null];

  function write(cell) {
    name.textContent = cell === null || !places[cell] ? "" : data.cells[cell];
    if (!name.textContent) return;
    const [x, y] = places[cell];
    const right = x > SIDE - 80;
    name.setAttribute("text-anchor", right ? "end" : "start");
    name.setAttribute("x", x + (right ? -9 : 9));
    name.setAttribute("y", y - 7);
  }
  const cellOf = (event) => event.target.closest?.(".point")?.dataset.cell;
  const over = (event) => write(cellOf(event) === undefined ? chosen : Number(cellOf(event)));
  svg.addEventListener("pointerover", over);
  svg.addEventListener("pointerleave", () => write(chosen));
  svg.addEventListener("focusin", over);
  svg.addEventListener("focusout", () => write(chosen));
  svg.addEventListener("click", (event) => cellOf(event) !== undefined && select(Number(cellOf(event))));
  svg.addEventListener("keydown", (event) => {
    if (cellOf(event) === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const cell = Number(cellOf(event));
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    const wanted = Math.max(1, Math.min(data.present, ranks[cell][0] + (step ?? 0)));
    const next = ranks.findIndex(([first]) => first === wanted);
    select(next);
    points[next].focus({ preventScroll: true });
  });

  return {
    box,
    // `given` [first, second] ranks of every cell, 0 for those without; `groups` which map has it on top: 1, 2, or 3.
    show(given, { groups, by, top, chosen: now }) {
      ranks = given;
      chosen = now;
      const length = SIDE - EDGE - END;
      const most = Math.max(2, data.present);
      const share = (rank) => (by === "value" ? (rank - 1) / (most - 1) : Math.log(rank) / Math.log(most));
      const place = ([first, second]) => [EDGE + share(first) * length, SIDE - EDGE - share(second) * length];
      places = ranks.map((pair) => (pair[0] ? place(pair) : null));
      axes.replaceChildren();
      for (const rank of ticksOf(most, by)) {
        const [x, y] = place([rank, rank]);
        axes.append(svgOf("line", { x1: x, x2: x, y1: END, y2: SIDE - EDGE }));
        axes.append(svgOf("line", { x1: EDGE, x2: SIDE - END, y1: y, y2: y }));
        axes.append(svgOf("text", { x, y: SIDE - EDGE + 16, "text-anchor": "middle" }, rank));
        axes.append(svgOf("text", { x: EDGE - 8, y: y + 4, "text-anchor": "end" }, rank));
      }
      const middle = EDGE + length / 2;
      axes.append(svgOf("text", { x: middle, y: SIDE - 10, "text-anchor": "middle" }, `rank in ${data.names[0]}`));
      const turn = `translate(12 ${END + length / 2}) rotate(-90)`;
      axes.append(svgOf("text", { "text-anchor": "middle", transform: turn }, `rank in ${data.names[1]}`));
      if (by !== "value") {
        const [x, y] = place([Math.min(top + 0.5, most), Math.min(top + 0.5, most)]);
        const size = { width: x - EDGE + 6, height: SIDE - EDGE - y + 6 };
        axes.append(svgOf("rect", { class: "corner-of-both", x: EDGE - 6, y, ...size }));
      }
      points.forEach((point, cell) => {
        if (!places[cell]) return point.remove();
        const [x, y] = places[cell];
        const larger = cell === chosen ? " scale(1.7)" : "";
        point.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})${larger}`);
        point.setAttribute("d", shapeOf(groups[cell]));
        point.setAttribute("class", `point ${GROUPS[groups[cell]]}${cell === chosen ? " selected" : ""}`);
        point.setAttribute("aria-label", sentence(cell));
        point.setAttribute("aria-pressed", String(cell === chosen));
      });
      if (!dots.childNodes.length) {
        // those on top of a map lie over the others
        const ranked = points.filter((_, cell) => places[cell]);
        dots.append(...ranked.sort((one, other) => groups[one.dataset.cell] - groups[other.dataset.cell]));
      }
      const first = ranks.findIndex(([rank]) => rank === 1);
      points[tabbed ?? first]?.setAttribute("tabindex", "-1");
      tabbed = chosen !== null && places[chosen] ? chosen : first;
      points[tabbed]?.setAttribute("tabindex", "0");
      write(chosen);
    },
  };
}
