"""Two halves of a task: one to choose on, the other to measure what the choice is worth."""

from collections.abc import Hashable, Sequence

import numpy as np


def halves(
    n_items: int, templates: Sequence[str], answers: Sequence[int] | np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split the items 0 to n_items - 1 at random into two halves, A and B; both are sorted indices.

    `answers` has the index of each item's right choice. The halves hold as many items of each answer as one another, or
    one more, so that a model which prefers one choice is as accurate on both by chance; the halves themselves differ by
    one item at most. `templates` names each item's template (empty: unknown): of each answer, the items of a template
    are halved in the same way. So both halves are of the same templates, and B tells what happens on other items of
    these templates, not on other templates. Every item is as likely in A as in B. The same seed gives the same halves.

    Raises:
        ValueError: for fewer than 4 items, or not one answer and one template for each.
    """
    if n_items < 4:
        raise ValueError(f"{n_items} items were given; to choose on one half and measure on the other takes 4 or more.")
    if len(answers) != n_items or len(templates) not in (0, n_items):
        raise ValueError(
            f"{len(answers)} answers and {len(templates)} templates were given for {n_items} items; give one of each "
            "for every item, or no templates."
        )
    random = np.random.default_rng(seed)
    answer = _shuffled(answers, random)
    template = _shuffled(templates if len(templates) else ["unknown"] * n_items, random)
    # alike items stand next to each other, and neighbours go to different halves
    order = np.lexsort([random.random(n_items), template, answer])
    first = random.integers(2)
    return np.sort(order[first::2]), np.sort(order[1 - first :: 2])


def _shuffled(labels: Sequence[Hashable] | np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A number for each label, equal where labels are equal, in random order."""
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    return random.permutation(len(names))[numbers]
