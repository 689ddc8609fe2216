// A head graph, layers upward, with a card of the chosen node: an anywidget module that pages inline.
//
// Traits: `threshold`, the smallest |score| of an edge that is drawn, `selected`, a node's name or null, `across`, the
// layout that is drawn, `zoom`, 1 for its own size and 0 for the width of the page; `paths`, 16-bit integers
// [layout, edge, 8], the cubic curve of every edge; and `data`:
//   name      what the graph is of
//   nodes     [{ name, kind, layer, head, role, score }] in the order in which they compute; null is unknown
//   edges     [[sender, receiver, port, score]] as indices, from the largest magnitude down, unknown last
//   layouts   [{ name, title, nodes: [[x, y]], rows: [[name, y]], bands: [[name, from, to]], width, height }]
//   bounds    { node, edge }: where the colour scales end; `digits` the same, as for `shown`
//   unscored  whether edges without a score are drawn for all nodes, or else for the chosen one
//   box       [width, height] of a node; `listed` how many edges a card lists each way; `units` what scores are in

import { buildChoices, make, shown } from "./elements.js";
import { buildCard } from "./graph_card.js";
import { buildStage, portWord } from "./graph_stage.js";

let graphsMade = 0;

function openPaths(paths, data) {
  const bytes = paths instanceof ArrayBuffer ? new Uint8Array(paths) : paths;
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const numbers = new Int16Array(copy);
  const each = 8 * data.edges.length;
  return data.layouts.map((_, at) => numbers.subarray(at * each, (at + 1) * each));
}

// Which edges are drawn: those with a score from the threshold on, and those without where they are not too many.
function visible(data, threshold, chosen) {
  const on = (edge) => {
    const [sender, receiver, , score] = edge;
    if (score === null) return data.unscored || sender === chosen || receiver === chosen;
    return Math.abs(score) >= threshold;
  };
  return data.edges.map(on);
}

function nodeSentence(data, at, degree) {
  const { name, kind, role, score } = data.nodes[at];
  const parts = [name, role];
  if (kind === "head" && score !== null) parts.push(`score ${shown(score, data.digits.node)}`);
  return `${parts.filter((part) => part).join(", ")}; ${degree[0]} edges in, ${degree[1]} out`;
}

function buildSlider(data, change) {
  const scored = data.edges.filter(([, , , score]) => score !== null).map(([, , , score]) => Math.abs(score));
  const box = make("label", "slider");
  const range = make("input", "", undefined, { type: "range", min: 0, max: scored.length, step: 1 });
  const output = make("output", "");
  box.append(make("span", "name", "Edges drawn"), range, output);
  box.hidden = scored.length === 0;
  // one step of the slider is one edge more; at 0 the threshold lies above them all
  const thresholdAt = (count) => (count === 0 ? 2 * data.bounds.edge : count === scored.length ? 0 : scored[count - 1]);
  range.addEventListener("input", () => change(thresholdAt(Number(range.value)), false));
  range.addEventListener("change", () => change(thresholdAt(Number(range.value)), true));
  return {
    box,
    show(threshold) {
      const count = scored.filter((magnitude) => magnitude >= threshold).length;
      const least = count ? `, magnitude ${shown(scored[count - 1], data.digits.edge)} or more` : "";
      range.value = String(count);
      output.textContent = `${count} of ${scored.length}${least}`;
      range.setAttribute("aria-valuetext", output.textContent);
    },
  };
}

// A box that finds nodes by name or role: with Enter the next one is chosen.
function buildSearch(data, { found, choose }) {
  const list = `headlens-nodes-${(graphsMade += 1)}`;
  const box = make("label", "search");
  const about = { type: "search", list, placeholder: "L9H6 or a role", autocomplete: "off" };
  const field = make("input", "", undefined, about);
  const names = make("datalist", "", undefined, { id: list });
  names.append(...data.nodes.map(({ name }) => make("option", "", undefined, { value: name })));
  const count = make("output", "");
  box.append(make("span", "name", "Find"), field, names, count);
  let [hits, next] = [[], 0];
  const look = () => {
    const wanted = field.value.trim().toLowerCase();
    const fits = (node, at) => {
      if (node.name.toLowerCase() === wanted) return [[-1, at]];
      const inside = node.name.toLowerCase().startsWith(wanted) || node.role.toLowerCase().includes(wanted);
      return inside ? [[0, at]] : [];
    };
    hits = wanted ? data.nodes.flatMap(fits).sort(([a], [b]) => a - b).map(([, at]) => at) : [];
    next = 0;
    count.textContent = wanted ? `${hits.length} found` : "";
    found(new Set(hits));
  };
  const take = () => {
    if (hits.length) choose(hits[next % hits.length]);
    next += 1;
  };
  field.addEventListener("input", look);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    take();
  });
  return box;
}

function buildKey(data) {
  const key = make("div", "key");
  const scale = (what, bound, digits) => {
    const box = make("div", `key-scale ${what}`);
    const ends = [-bound, bound].map((number) => make("span", "", shown(number, digits)));
    box.append(make("span", "", what), ends[0], make("span", "scale", undefined, { "aria-hidden": "true" }), ends[1]);
    return box;
  };
  const [edges, nodes] = [data.edges.map(([, , , score]) => score), data.nodes.map(({ score }) => score)];
  if (edges.some((score) => score !== null)) key.append(scale("edges", data.bounds.edge, data.digits.edge));
  if (nodes.some((score) => score !== null)) key.append(scale("heads", data.bounds.node, data.digits.node));
  const ends = "Edges run upwards and enter a head on the left as its query, in the middle as its key, on the right as";
  key.append(make("p", "", `${data.units} ${ends} its value.`.trim()));
  return key;
}

function draw(model, root) {
  const data = model.get("data");
  const paths = openPaths(model.get("paths"), data);
  const placeOf = (name) => data.nodes.findIndex((node) => node.name === name);
  const degrees = data.nodes.map((_, at) => [1, 0].map((end) => data.edges.filter((edge) => edge[end] === at).length));
  const put = (changes, save = true) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    if (save) model.save_changes();
    refresh();
  };
  const select = (at) => {
    const name = data.nodes[at]?.name ?? null;
    if (model.get("selected") !== name) put({ selected: name });
    if (at >= 0) stage.reveal(at);
  };
  const layoutAt = () => Math.max(0, data.layouts.findIndex(({ name }) => name === model.get("across")));

  const orders = data.layouts.map(({ name, title }) => [title, name]);
  const across = buildChoices("Across", orders, (name) => put({ across: name }));
  across.box.hidden = data.layouts.length < 2;
  const slider = buildSlider(data, (threshold, save) => put({ threshold }, save));
  const search = buildSearch(data, { found: (hits) => stage.find(hits), choose: select });
  const status = make("p", "status", "", { role: "status" });
  const stage = buildStage(data, {
    describe: (at) => nodeSentence(data, at, degrees[at]),
    choose: select,
    zoom: (zoom) => put({ zoom }),
    settle: () => model.get("zoom"),
  });
  const card = make("section", "card", undefined, { "aria-label": "The chosen node" });
  const controls = make("div", "controls");
  controls.append(slider.box, search, across.box, stage.buttons);
  const side = make("div", "side");
  side.append(card, buildKey(data));
  root.replaceChildren(controls, status, stage.box, side);

  let drawn = -1;
  function refresh() {
    const [at, chosen] = [layoutAt(), placeOf(model.get("selected"))];
    const threshold = model.get("threshold");
    across.press(data.layouts[at].name);
    slider.show(threshold);
    if (drawn !== at) stage.lay(data.layouts[at], paths[at]);
    drawn = at;
    const on = visible(data, threshold, chosen);
    stage.scale(model.get("zoom"));
    stage.show(on, chosen);
    const hidden = data.edges.filter(([, , , score], edge) => score === null && !on[edge]).length;
    const rest = hidden ? ` ${hidden} edges without a score are drawn only at the chosen node.` : "";
    const drawnEdges = `${on.filter(Boolean).length} of ${data.edges.length} edges drawn.`;
    status.textContent = `${data.name}: ${data.nodes.length} nodes, ${drawnEdges}${rest}`;
    const follow = (other) => {
      select(other);
      stage.focus(other);
    };
    card.replaceChildren(...buildCard(data, chosen, { portWord, choose: follow }));
  }
  refresh();
  const first = placeOf(model.get("selected"));
  if (first >= 0) stage.reveal(first);
  return { refresh, stop: stage.stop };
}

const GRAPH_TRAITS = ["threshold", "selected", "across", "zoom"];

export default {
  render({ model, el }) {
    const root = make("div", "headlens-map headlens-graph");
    el.append(root);
    let graph = draw(model, root);
    const redraw = () => {
      graph.stop();
      graph = draw(model, root);
    };
    const refresh = () => graph.refresh();
    for (const name of ["data", "paths"]) model.on(`change:${name}`, redraw);
    for (const name of GRAPH_TRAITS) model.on(`change:${name}`, refresh);
    return () => {
      graph.stop();
      for (const name of ["data", "paths"]) model.off(`change:${name}`, redraw);
      for (const name of GRAPH_TRAITS) model.off(`change:${name}`, refresh);
    };
  },
};
