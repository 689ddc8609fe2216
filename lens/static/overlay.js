// A picture with a grid of patches over it: the more attention, the more colour. One patch is in the tab order, and the
// arrow keys go on from it.

import { make } from "./elements.js";

const STEPS = {
  ArrowUp: ([row, column]) => [row - 1, column],
  ArrowDown: ([row, column]) => [row + 1, column],
  ArrowLeft: ([row, column]) => [row, column - 1],
  ArrowRight: ([row, column]) => [row, column + 1],
  Home: ([row]) => [row, 0],
  End: ([row]) => [row, Infinity],
};
// How much of the picture the strongest colour covers.
const COVER = 80;

const percentage = (share) => `${(100 * share).toFixed(1)}%`;

// `cells` are [picture, row, column, patch]; `hover` hears of the patch under the pointer or in focus, or null.
export function buildOverlay(address, [rows, columns], cells, { label, hover }) {
  const box = make("div", "overlay");
  const image = make("img", "", undefined, { src: address, alt: `The ${label} that the model saw` });
  const grid = make("div", "patches", undefined, { role: "grid", "aria-label": `Attention over the ${label}` });
  box.style.setProperty("--columns", columns);
  box.style.setProperty("--rows", rows);
  const patches = new Map(cells.map(([, row, column, patch]) => [row * columns + column, patch]));
  const elements = Array.from({ length: rows }, (_, row) => {
    const line = make("div", "row", undefined, { role: "row" });
    const ofRow = Array.from({ length: columns }, (_, column) => {
      const element = make("div", "patch", undefined, { role: "gridcell", tabindex: "-1" });
      element.dataset.at = `${row},${column}`;
      return element;
    });
    line.append(...ofRow);
    grid.append(line);
    return ofRow;
  });
  box.append(image, grid);
  // a picture of few pixels is drawn in squares, not in a blur
  image.addEventListener("load", () => box.classList.toggle("coarse", image.naturalWidth < 160));

  const placeOf = (event) => event.target.closest?.(".patch")?.dataset.at.split(",").map(Number);
  const tell = (event) => {
    const at = placeOf(event);
    if (at) hover(patches.get(at[0] * columns + at[1]) ?? null);
  };
  grid.addEventListener("pointerover", tell);
  grid.addEventListener("focusin", tell);
  for (const gone of ["pointerleave", "focusout"]) grid.addEventListener(gone, () => hover(null));
  let reached = elements[0][0];
  reached.tabIndex = 0;
  const reach = (element) => {
    [reached.tabIndex, element.tabIndex] = [-1, 0];
    reached = element;
  };
  grid.addEventListener("keydown", (event) => {
    const from = placeOf(event);
    if (!from || !(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [row, column] = STEPS[event.key](from);
    const inside = (at, size) => Math.max(0, Math.min(at, size - 1));
    reach(elements[inside(row, rows)][inside(column, columns)]);
    reached.focus();
  });

  return {
    box,
    // Colour every patch by its share of `bound`; null leaves the picture alone.
    show(values, bound) {
      let [strongest, largest] = [null, 0];
      elements.flat().forEach((element, at) => {
        const patch = patches.get(at);
        const value = values === null || patch === undefined ? null : values[patch];
        element.style.setProperty("--depth", `${value === null ? 0 : Math.min(COVER, (COVER * value) / bound)}%`);
        element.classList.remove("strongest");
        const [row, column] = [Math.floor(at / columns), at % columns];
        const said = value === null ? "no patch" : percentage(value);
        element.setAttribute("aria-label", `row ${row}, column ${column}: ${said}`);
        if (value !== null && value > largest) [strongest, largest] = [element, value];
      });
      if (!strongest) return;
      strongest.classList.add("strongest");
      if (document.activeElement !== reached) reach(strongest);
    },
  };
}
