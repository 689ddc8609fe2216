"""A watched run cut into runs of a few prompts each, and a run put beside another of the same shape."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.watched_run import WatchedRun

# Tokens that run together where nobody says how many prompts do, and what a picture is taken to be.
_TOGETHER, _PICTURE = 8192, 512


def n_prompts(run: WatchedRun) -> int:
    """How many prompts the run holds. ValueError for a run of none, and for a prompt that is nothing but padding."""
    tokens = _main(run) if run.ids is None else run.ids
    if not tokens.numel():
        raise ValueError(f"There are no tokens to run on: their shape is {list(tokens.shape)}.")
    if run.real is not None and not bool(run.real.any(1).all()):
        raise ValueError(f"Prompt {int(run.real.any(1).int().argmin())} is nothing but padding; leave it out.")
    return len(tokens)


def parts(run: WatchedRun, other: WatchedRun | None, size: int | None) -> Iterator[tuple[slice, WatchedRun]]:
    """At most `size` prompts at a time (None: as many as have 8,192 tokens together), with their places among all, and
    with the same prompts of the other run behind them.

    ValueError where an input has not one entry for each prompt.
    """
    count, runs = n_prompts(run), 1 if other is None else 2
    step = size or max(1, _TOGETHER // (runs * (_PICTURE if run.ids is None else run.ids.shape[1])))
    for first in range(0, count, step):
        prompts = slice(first, min(first + step, count))
        part = _cut(run, prompts, count)
        yield prompts, part if other is None else _beside(part, _cut(other, prompts, count))


def read_by(run: WatchedRun) -> Int[Tensor, "prompt ..."]:
    """The token ids, -1 at padding, or what the model reads in their place, as the whole numbers that its bits are."""
    if run.ids is None:
        return _main(run).float().contiguous().view(torch.int32)
    return run.ids if run.real is None else run.ids.where(run.real, -1)


def refuse_unlike(run: WatchedRun, other: WatchedRun) -> None:
    """ValueError unless the rows of both runs can be compared one by one: the same shapes and the same padding."""
    one, two = (
        {name: list(value.shape) for name, value in _seen(each).items() if isinstance(value, Tensor)}
        for each in (run, other)
    )
    if one != two:
        raise ValueError(
            f"The rows of two runs are compared one by one, but tokens has {_told(one)} and other has {_told(two)}; "
            "give as many prompts of the same lengths."
        )
    if run.real is not None and other.real is not None and not torch.equal(run.real, other.real):
        raise ValueError(
            "tokens and other are padded at different places, so their rows cannot be compared one by one."
        )


def _main(run: WatchedRun) -> Tensor:
    main = run.inputs.get(run.model.hf.main_input_name)
    return next(value for value in (main, *run.inputs.values()) if isinstance(value, Tensor))


def _beside(run: WatchedRun, other: WatchedRun) -> WatchedRun:
    one, two = _seen(run), _seen(other)
    both = {name: torch.cat([one[name], two[name]]) if isinstance(one[name], Tensor) else one[name] for name in one}
    return replace(run, inputs=both)


def _cut(run: WatchedRun, prompts: slice, count: int) -> WatchedRun:
    if prompts == slice(0, count):
        return run
    inputs: dict[str, Any] = {}
    for name, value in run.inputs.items():
        each = isinstance(value, Tensor) and value.ndim > 0
        if each and len(value) not in (1, count):
            raise ValueError(
                f"{name} has {len(value)} entries for {count} prompts, so the prompts cannot be run a few at a time; "
                f"give batch={count}."
            )
        inputs[name] = value[prompts] if each and len(value) == count else value
    return replace(run, inputs=inputs)


def _seen(run: WatchedRun) -> Mapping[str, Any]:
    """The inputs; a mask that hides nothing says as much as none."""
    mask = run.inputs.get("attention_mask")
    if isinstance(mask, Tensor) and bool(mask.all()):
        return {name: value for name, value in run.inputs.items() if name != "attention_mask"}
    return run.inputs


def _told(shapes: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
