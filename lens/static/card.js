// What is known of one head, line by line, and its strongest edges: an anywidget module that pages inline.
//
// Traits: `selected` [row, column] of a grid of heads, or null, and `data`:
//   names    what the heads of the grid are called, row by row; `columns` how many there are in a row
//   facts    [{ name, units, digits, values }], a value for each head, null for what is missing
//   edges    { head: [[way, other, score]] } of the largest magnitude first; `digits` of their scores; `units` of them

import { buildBar, make, shown } from "./elements.js";

const HINT = "Choose a head on the map.";
const WAYS = { in: "from", out: "to" };
const MISSING = "missing";

function buildFact({ name, units, digits, values }, at) {
  const value = values[at];
  const line = [make("dt", "", name), make("dd")];
  line[1].append(make("span", "value", value === null ? MISSING : shown(value, digits)));
  if (units) line[1].append(make("span", "units", ` ${units}`));
  return line;
}

function buildFacts(facts, at) {
  const list = make("dl", "facts");
  list.append(...facts.flatMap((fact) => buildFact(fact, at)));
  return list;
}

const axisOfEdges = (edges) => {
  const bound = Math.max(...edges.map(([, , score]) => Math.abs(score))) || 1;
  return [-bound, bound];
};

function buildEdges(edges, { digits, units }) {
  const table = make("table", "edges");
  table.append(make("caption", "", `Strongest edges${units ? `, ${units}` : ""}`), make("tbody"));
  for (const [way, other, score] of edges) {
    const row = table.tBodies[0].insertRow();
    row.append(make("th", "", `${WAYS[way]} ${other}`, { scope: "row" }));
    row.insertCell().append(buildBar({ value: score, low: null, high: null }, axisOfEdges(edges)));
    row.append(make("td", "number", shown(score, digits)));
  }
  return table;
}

function drawCard(model, root) {
  const [data, selected] = [model.get("data"), model.get("selected")];
  const at = selected ? selected[0] * data.columns + selected[1] : -1;
  const name = data.names?.[at];
  if (name === undefined) {
    root.replaceChildren(make("p", "hint", HINT));
    return;
  }
  const edges = data.edges?.[name] ?? [];
  const heading = make("h3", "name", name);
  root.replaceChildren(heading, buildFacts(data.facts, at), ...(edges.length ? [buildEdges(edges, data)] : []));
}

const CARD_TRAITS = ["data", "selected"];

export default {
  render({ model, el }) {
    const spoken = { "aria-label": "Head", "aria-live": "polite" };
    const root = make("section", "headlens-map headlens-card", undefined, spoken);
    el.append(root);
    const redraw = () => drawCard(model, root);
    redraw();
    for (const trait of CARD_TRAITS) model.on(`change:${trait}`, redraw);
    return () => {
      for (const trait of CARD_TRAITS) model.off(`change:${trait}`, redraw);
    };
  },
};
