"""Two halves of a task: one to choose on, the other to measure what the choice is worth."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np


def halves(
    n_prompts: int,
    templates: Sequence[str],
    answers: Sequence[Hashable] | np.ndarray,
    seed: int = 0,
    items: Sequence[Hashable] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Split the prompts 0 to n_prompts - 1 at random into two halves, A and B; both are sorted indices.

    Prompts with the same label in `items` ask the same thing and stay together, so that B tells what happens on things
    that were not asked in A. `answers` has each prompt's right choice, and `templates` its template (empty: unknown).
    Where every prompt is an item of its own, the halves hold as many prompts of each answer as one another, or one
    more, so that a model which prefers one choice is as accurate on both by chance; of each answer, those of a template
    are halved in the same way; and the halves differ by one prompt at most. Larger items balance as far as they can.
    Both halves are of the same templates: B does not tell what happens on others. The same seed gives the same halves.

    Raises:
        ValueError: for fewer than 4 prompts or 2 items, or not one answer, template and item for each prompt.
    """
    if n_prompts < 4:
        raise ValueError(f"{n_prompts} prompts were given; to choose on half and measure on the other takes 4 or more.")
    if len(answers) != n_prompts or len(templates) not in (0, n_prompts) or len(items) not in (0, n_prompts):
        raise ValueError(
            f"{len(answers)} answers, {len(templates)} templates and {len(items)} items were given for {n_prompts} "
            "prompts; give one of each for every prompt, or no templates or items."
        )
    together: dict[Hashable, list[int]] = defaultdict(list)
    for prompt, item in enumerate(items if len(items) else range(n_prompts)):
        together[item].append(prompt)
    groups = [*together.values()]
    if len(groups) < 2:
        raise ValueError(f"All {n_prompts} prompts are one item, which stays in one half; give 2 items or more.")
    random = np.random.default_rng(seed)
    first_of = [prompts[0] for prompts in groups]
    answer = _shuffled([answers[prompt] for prompt in first_of], random)
    template = _shuffled([templates[prompt] if len(templates) else "" for prompt in first_of], random)
    # alike items stand next to each other, and neighbours go to different halves
    order = np.lexsort([random.random(len(groups)), template, answer])
    first = random.integers(2)
    one, other = (
        np.array(sorted(prompt for at in order[start::2] for prompt in groups[at])) for start in (first, 1 - first)
    )
    return one, other


def _shuffled(labels: Sequence[Hashable], random: np.random.Generator) -> np.ndarray:
    """A number for each label, equal where labels are equal, in random order."""
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    return random.permutation(len(names))[numbers]
