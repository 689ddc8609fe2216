"""Runs of whole prompts that are only looked at, by watchers of attention rows and by taps, not for their logits.

They can be cut into runs of a few prompts each, and put beside another of the same shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.analyses.fitness import refuse_too_long
from headlens.hooks.attention_taps import Watch
from headlens.hooks.inputs import Tokens, known_words, prepare
from headlens.hooks.model import Model
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap

# Tokens that run together where nobody says how many prompts do, and what a picture is taken to be.
_TOGETHER, _PICTURE = 8192, 512


@dataclass(frozen=True, eq=False)
class WatchedRun:
    """One run to come, of the main tower's tokens: the decoder's own where a model has an encoder too."""

    model: Model
    inputs: Mapping[str, Any]
    ids: Int[Tensor, "prompt pos"] | None
    real: Bool[Tensor, "prompt pos"] | None  # False at padding; None where nothing says that there is some

    def __call__(self, acts: Sequence[Tap | Watch]) -> None:
        """Run the model under these, without gradients."""
        # spared are the logits of all positions, and a cache
        spared = known_words(self.model.hf, logits_to_keep=1, use_cache=False)
        with torch.no_grad(), tapped(self.model.hf, self.model.towers, acts):
            self.model({**spared, **self.inputs})


def watched_run(model: Model, tokens: Tokens) -> WatchedRun:
    """A run of text, texts, ids or a processor's output, as `Model` takes them.

    ValueError for a filled cache, and for longer prompts than the model has positions for.
    """
    inputs = prepare(model.hf, model.tokenizer, tokens, {})
    # an empty one is left out: it would be filled by the first of several parts
    cache = inputs.pop("past_key_values", None)
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            f"A cache of {cache.get_seq_length()} tokens was given, and what their rows did is not in it (a mean over "
            "all rows of a prompt cannot be had in a cached decode step); give whole prompts, without past_key_values."
        )
    side = "decoder_" if getattr(model.hf.config, "is_encoder_decoder", False) else ""
    ids, mask = inputs.get(f"{side}input_ids"), inputs.get(f"{side}attention_mask")
    positions = inputs.get("position_ids", ids)
    if isinstance(positions, Tensor) and positions.numel():
        # padding in front is not counted where positions are given
        refuse_too_long(model, positions.shape[1] if positions is ids else int(positions.max()) + 1)
    return WatchedRun(model, inputs, ids, None if mask is None else mask.bool())


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

    ValueError for a size below 1, and where an input has not one entry for each prompt.
    """
    if size is not None and size < 1:
        raise ValueError(f"batch={size} was given; expected how many prompts run at a time, at least 1.")
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
    ids, real = (None if each is None else each[prompts] for each in (run.ids, run.real))
    return replace(run, inputs=inputs, ids=ids, real=real)


def _seen(run: WatchedRun) -> Mapping[str, Any]:
    """The inputs; a mask that hides nothing says as much as none."""
    mask = run.inputs.get("attention_mask")
    if isinstance(mask, Tensor) and bool(mask.all()):
        return {name: value for name, value in run.inputs.items() if name != "attention_mask"}
    return run.inputs


def _told(shapes: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
