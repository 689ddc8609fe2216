"""What samples run under: the same edits for all, or edits for those that run together."""

from collections.abc import Callable, Sequence

from headlens.hooks.apply import Edit

# Edits, or what gives them for the samples (by index, in this order) that run as one batch: `Reinforcement.edits` does.
Under = Sequence[Edit] | Callable[[list[int]], Sequence[Edit]]


def edits_for(under: Under, indices: list[int]) -> tuple[Edit, ...]:
    """The edits for these samples as one batch. ValueError where `under` is neither a sequence nor a function."""
    edits = under(indices) if callable(under) else under
    if not isinstance(edits, Sequence) or isinstance(edits, str):
        raise ValueError(
            f"{edits!r} was given as edits; expected a list of them, such as [Gate('L2H1', 2.0)], or a function that "
            "gives one for the indices of the samples that run together."
        )
    return tuple(edits)
