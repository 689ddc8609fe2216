"""Random sets of heads to hold a chosen set against: are these heads special, or would any others have done?

Layers differ in what an edit of a head does there, so a random set has as many heads in each layer as the chosen one.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb, prod

import numpy as np

from headlens.hooks.sites import Head


def random_head_sets(
    chosen: Sequence[Head], candidates: Sequence[Head], n: int, seed: int = 0
) -> list[tuple[Head, ...]]:
    """Draw n different sets from `candidates`, each with as many heads in each layer as `chosen`; all are as likely.

    The heads of `chosen` may occur, since they are part of the population that was chosen from; only the whole chosen
    set does not. Where fewer than n other sets exist, all of them are returned (none, if there is none): with repeats,
    a single head that is the best of 9 in its layer would seem the best of n. The same seed gives the same sets, in
    whatever order the heads are given. Each set is sorted; a head given twice counts once.

    Raises:
        ValueError: for n < 1, or a layer with fewer candidates than chosen heads.
    """
    if n < 1:
        raise ValueError(f"n={n} was given; expected how many random sets to draw, at least 1.")
    own, population = sorted(set(chosen)), sorted(set(candidates))
    wanted = Counter(head.layer for head in own)
    pools = {layer: [head for head in population if head.layer == layer] for layer in wanted}
    for layer, count in wanted.items():
        if len(pools[layer]) < count:
            raise ValueError(
                f"Layer {layer} has {count} chosen heads and {len(pools[layer])} candidates; random sets of as many "
                "heads in each layer need at least as many candidates there."
            )
    possible = prod(comb(len(pools[layer]), count) for layer, count in wanted.items())
    others = possible - set(own).issubset(population)
    random = np.random.default_rng(seed)
    # a dict, so that the sets are different and keep the order in which they were drawn
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < min(n, others):
        drawn = tuple(
            pools[layer][at]
            for layer, count in wanted.items()
            for at in sorted(random.choice(len(pools[layer]), count, replace=False))
        )
        if drawn != tuple(own):
            found[drawn] = None
    return list(found)
