"""Random circuits of the size of a given one: would any other part of the model have kept as much?"""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.head_sets import random_head_sets
from headlens.hooks.sites import parse_heads


def random_circuits(circuit: Circuit, n: int, seed: int = 0) -> list[Circuit]:
    """n random circuits like this one, at most as many as there are.

    Of a circuit of heads: other heads, as many in each layer. Of any other: other edges, as many of each kind (from
    head, MLP or embedding, to q, k, v, MLP or logits) between each two layers.
    """
    wiring = circuit.wiring
    if circuit.is_of_heads:
        if not circuit.heads:
            return []
        every = parse_heads("all", wiring.n_layers, wiring.n_heads)
        sets = random_head_sets(circuit.heads, every, n, seed)
        return [Circuit.of_nodes(wiring, heads, name=f"random {at}") for at, heads in enumerate(sets)]
    random, alike = np.random.default_rng(seed), defaultdict(list)
    for row, column in np.argwhere(wiring.possible):
        sender, receiver = wiring.senders[row], wiring.receivers[column]
        alike[sender.kind, sender.layer, receiver.kind, receiver.layer].append((row, column))
    places = [np.array(some) for some in alike.values()]
    counts = [int(circuit.kept[tuple(some.T)].sum()) for some in places]
    found = []
    for at in range(n):
        kept = np.zeros_like(circuit.kept)
        for some, count in zip(places, counts, strict=True):
            if count:
                kept[tuple(some[random.choice(len(some), count, replace=False)].T)] = True
        found.append(replace(circuit, kept=kept, name=f"random {at}", roles={}))
    return found
