"""Who receives in path patching: queries, keys and values of some heads, or the logits, from what people write."""

from collections.abc import Sequence
from typing import Any

from headlens.hooks.model import Model
from headlens.hooks.sites import parse_heads
from headlens.hooks.wiring import LOGITS, Node, wiring_of

COMPONENTS = ("q", "k", "v")

# "logits", one pair such as ("L23H3", "q"), or several pairs.
Receivers = str | Sequence[Any]


def receivers_of(model: Model, receivers: Receivers) -> tuple[Node, ...]:
    """The receiving nodes in the order in which they compute, each once.

    A head is named by its query head throughout. Its k and v are those of the key/value head that it reads, which other
    query heads may share: their k and v are the same node. ValueError for anything that is no receiver of this model.
    """
    wiring = wiring_of(model)
    if isinstance(receivers, str):
        if receivers != LOGITS:
            raise ValueError(f"Receivers {receivers!r} were given; {_EXPECTED}.")
        return (Node(LOGITS, model.n_layers),)
    nodes = set()
    for each in [receivers] if _is_pair(receivers) else receivers:
        if not _is_pair(each):
            raise ValueError(f"The receiver {each!r} was given; {_EXPECTED}.")
        label, component = each
        (head,) = parse_heads(label, model.n_layers, model.n_heads)
        nodes.add(Node(component, head.layer, head.head if component == "q" else wiring.group(head.head)))
    if not nodes:
        raise ValueError(f"No receivers were given; {_EXPECTED}.")
    return tuple(sorted(nodes, key=lambda node: (node.layer, COMPONENTS.index(node.kind), node.head)))


_EXPECTED = "expected 'logits', or pairs of a head and q, k or v, such as [('L23H3', 'q')]"


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[1], str) and given[1] in COMPONENTS
