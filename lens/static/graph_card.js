// The card of one node of a head graph: what it is, and its strongest edges in and out, each a way to the other end.

import { axisOf, buildBar, make, shown } from "./elements.js";

const KINDS = { head: "attention head", mlp: "MLP", embed: "embedding", logits: "logits" };

function edgeTable(data, caption, edges, end, { portWord, choose }) {
  const table = make("table", "edges");
  const lines = edges.slice(0, data.listed);
  const more = edges.length > lines.length ? `, the first ${lines.length} of ${edges.length}` : "";
  table.append(make("caption", "", `${caption}${edges.length ? more : ": nothing"}`), make("tbody"));
  const axis = axisOf(lines.map(([, , , score]) => ({ value: score, low: null, high: null })), 0);
  for (const edge of lines) {
    const [other, score] = [data.nodes[edge[end]], edge[3]];
    const row = table.tBodies[0].insertRow();
    const name = row.insertCell();
    name.append(make("button", "", other.name, { type: "button" }));
    const words = [portWord(edge[2]), other.role].filter((word) => word).join(", ");
    if (words) name.append(make("span", "tokens", words));
    const bar = row.insertCell();
    if (score !== null) bar.append(buildBar({ value: score, low: null, high: null }, axis));
    row.append(make("td", "number", score === null ? "no score" : shown(score, data.digits.edge)));
    row.addEventListener("click", () => choose(edge[end]));
  }
  return table;
}

// From the strongest edge down; edges without a score follow, from the other end of largest score down.
function ranked(data, at, own, end) {
  const magnitude = (score) => (score === null ? -1 : Math.abs(score));
  const edges = data.edges.filter((edge) => edge[own] === at);
  const keys = new Map(edges.map((edge) => [edge, [magnitude(edge[3]), magnitude(data.nodes[edge[end]].score)]]));
  const order = ([one, first], [other, second]) => other - one || second - first;
  return edges.sort((one, other) => order(keys.get(one), keys.get(other)));
}

export function buildCard(data, at, actions) {
  if (at < 0) return [make("p", "hint", "Choose a node to see what it reads and what reads it.")];
  const node = data.nodes[at];
  const facts = [["kind", KINDS[node.kind] ?? node.kind]];
  if (node.kind === "head" || node.kind === "mlp") facts.push(["layer", String(node.layer)]);
  if (node.kind === "head") facts.push(["head", String(node.head)]);
  if (node.role) facts.push(["role", node.role]);
  const score = node.score === null ? "unknown" : shown(node.score, data.digits.node);
  if (node.kind === "head") facts.push(["score", score]);
  const list = make("dl", "facts");
  for (const [name, value] of facts) list.append(make("dt", "", name), make("dd", "", value));
  return [
    make("h3", "", node.name),
    list,
    edgeTable(data, "Reads from", ranked(data, at, 1, 0), 0, actions),
    edgeTable(data, "Read by", ranked(data, at, 0, 1), 1, actions),
  ];
}
