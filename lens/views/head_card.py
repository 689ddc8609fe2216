"""HeadCard: what is known of the chosen head of a map, line by line, with the edges that it is strongest in."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import traitlets

from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, reach, shown
from headlens.views.graph_style import FONT, INK, PAPER, SOFT, svg_text
from headlens.views.page import About
from headlens.views.widget import View

# Edges of a head that are listed.
_LISTED = 6
_TITLES = {
    "first_token": "attention to the first token",
    "previous_token": "attention to the token before",
    "self": "attention to itself",
    "duplicate": "attention to earlier copies",
    "induction": "attention behind earlier copies",
    "distance": "distance",
    "entropy": "entropy",
    "direct": "direct effect on the answer",
}


class HeadCard(View):
    """Numbers of every head, of which those of the `selected` [row, column] are shown.

    `facts` are maps over (layer, head) by what they are called; `layers` and `heads` name the grid's rows and columns.
    With `edges`, the edges of largest magnitude that enter or leave the head are listed.

    Raises:
        ValueError: for maps that lack a head of the grid, and a `selected` that is not in it.
    """

    modules = ("card.js",)
    styles = ("card.css",)

    data = traitlets.Dict().tag(sync=True)
    selected = traitlets.List(traitlets.Int(), None, allow_none=True, minlen=2, maxlen=2).tag(sync=True)

    def __init__(
        self,
        facts: Mapping[str, HeadMap],
        layers: Sequence[int],
        heads: Sequence[int],
        edges: EdgeMap | None = None,
        **traits: Any,
    ) -> None:
        self.layers, self.heads = [*layers], [*heads]
        self._edges = {} if edges is None else _strongest(edges)
        self._about_edges = {} if edges is None else {"units": edges.units, "digits": _digits(self._edges)}
        super().__init__(data=self._data(facts), **traits)

    @property
    def name(self) -> str | None:
        """The selected head, such as "L23H3"."""
        return None if self.selected is None else f"L{self.layers[self.selected[0]]}H{self.heads[self.selected[1]]}"

    def tell(self, facts: Mapping[str, HeadMap]) -> None:
        """Show other numbers, such as those of another prompt."""
        self.data = self._data(facts)

    def lines(self) -> dict[str, float]:
        """What the card says of the selected head, by name; NaN is missing. Empty before a head is selected."""
        if self.selected is None:
            return {}
        at = self.selected[0] * len(self.heads) + self.selected[1]
        return {
            fact["name"]: np.nan if fact["values"][at] is None else fact["values"][at] for fact in self.data["facts"]
        }

    def fallback(self) -> str:
        lines = [(name, shown(value, _digits_of(self.data, name))) for name, value in self.lines().items()]
        height = 46 + 20 * max(1, len(lines))
        rows = "".join(
            f'<text x="16" y="{50 + 20 * at}" fill="{SOFT}">{svg_text(name)}</text>'
            f'<text x="300" y="{50 + 20 * at}" fill="{INK}">{svg_text(value)}</text>'
            for at, (name, value) in enumerate(lines)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 {height}" width="420" height="{height}" '
            f'role="img" font-family="{FONT}" font-size="13"><rect width="100%" height="100%" fill="{PAPER}"/>'
            f'<text x="16" y="26" font-size="16" font-weight="600" fill="{INK}">{self.name or "No head is chosen."}'
            f"</text>{rows}</svg>\n"
        )

    def about(self) -> About:
        said = "".join(f"<dt>{escape(name)}</dt><dd>{value:g}</dd>" for name, value in self.lines().items())
        return About(f"Head {self.name}" if self.name else "Heads", tables=f"<dl>{said}</dl>", styles=self.styles)

    def _data(self, facts: Mapping[str, HeadMap]) -> dict[str, Any]:
        return {
            "names": [f"L{layer}H{head}" for layer in self.layers for head in self.heads],
            "columns": len(self.heads),
            "facts": [_fact(name, each, self.layers, self.heads) for name, each in facts.items()],
            "edges": self._edges,
            **self._about_edges,
        }

    @traitlets.validate("selected")
    def _known_head(self, proposal: Any) -> list[int] | None:
        at, shape = proposal["value"], (len(self.layers), len(self.heads))
        if at is not None and not all(0 <= one < size for one, size in zip(at, shape, strict=True)):
            raise ValueError(f"selected={at} was given; expected [row, column] inside {shape}, from 0.")
        return at


def _fact(name: str, headmap: HeadMap, layers: Sequence[int], heads: Sequence[int]) -> dict[str, Any]:
    part = headmap.sel(layer=layers, head=heads)
    values = part.values if part.dims == ("layer", "head") else part.values.T
    return {
        "name": _TITLES.get(name, name),
        "units": part.units,
        "digits": decimals(reach(part)),
        "values": [float(value) if np.isfinite(value) else None for value in values.reshape(-1)],
    }


def _strongest(edges: EdgeMap) -> dict[str, list[list[Any]]]:
    """By head, its edges of largest magnitude: ["in" or "out", the edge's other end, its score]."""
    wiring, values = edges.wiring, edges.values
    columns = {(node.kind, node.layer, node.head): at for at, node in enumerate(wiring.receivers)}
    found = {}
    for row, node in enumerate(wiring.senders):
        if node.kind != "head":
            continue
        # keys and values are shared within a group of heads
        shared = wiring.group(node.head)
        read_by = {"q": node.head, "k": shared, "v": shared}
        ports = [columns[kind, node.layer, head] for kind, head in read_by.items()]
        own = [["out", edges.receivers[at], float(values[row, at])] for at in _largest(values[row])]
        own += [
            ["in", f"{edges.senders[at]} ({edges.receivers[port].rpartition('.')[2]})", float(values[at, port])]
            for port in ports
            for at in _largest(values[:, port])
        ]
        found[f"L{node.layer}H{node.head}"] = sorted(own, key=lambda edge: -abs(edge[2]))[:_LISTED]
    return found


def _largest(values: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")[:_LISTED]
    return order[~np.isnan(values[order])]


def _digits(edges: Mapping[str, list[list[Any]]]) -> int | None:
    return decimals(max((abs(edge[2]) for own in edges.values() for edge in own), default=1.0) or 1.0)


def _digits_of(data: Mapping[str, Any], name: str) -> int | None:
    return next(fact["digits"] for fact in data["facts"] if fact["name"] == name)
