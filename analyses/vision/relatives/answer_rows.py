"""The attention of the rows that say an answer: a mean over heads, at some layers, and no other row is kept."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.vision.answers import answered
from headlens.analyses.vision.samples import Samples
from headlens.analyses.watched_run import watched_run
from headlens.hooks.attention_taps import Watch
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site


def answer_rows(
    model: Model, samples: Samples, answers: Sequence[Tensor | Sequence[int]], layers: Sequence[int], *, batch: int = 8
) -> tuple[Float[Tensor, "layer _step _key"], ...]:
    """The attention with which each token of an answer is said, mean over heads, of each sample on its own.

    Step 0 is the last token of the prompt, which says the first token; step t is the answer's token t - 1. The answer
    is read in one pass, which gives the rows of cached decoding. float32 on the CPU.

    ValueError for a layer that the model does not have, and for what `answered` refuses.
    """
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise ValueError(f"Layer {layer} was given; {model.name} has layers 0..{model.n_layers - 1}.")
    found: dict[int, Tensor] = {}
    for indices, inputs in answered(model, samples, answers).batches(batch):
        length = inputs["input_ids"].shape[1]
        steps = [len(answers[at]) for at in indices]
        rows = torch.zeros(len(indices), len(layers), max(steps), length)
        watches = [
            Watch(Site("pattern", layer), partial(_keep, rows[:, at]), "The reading of an answer's attention")
            for at, layer in enumerate(layers)
        ]
        watched_run(model, inputs)(watches)
        for at, own, count in zip(indices, rows, steps, strict=True):
            found[at] = own[:, max(steps) - count :].clone()
    return tuple(found[at] for at in range(len(samples)))


def layers_at_depth(n_layers: int, first: int, last: int, of: int) -> tuple[int, ...]:
    """The layers `first` to `last` of a model with `of` layers, at the same depths of one with n_layers."""
    return tuple(range(first * n_layers // of, last * n_layers // of + 1))


def _keep(rows: Float[Tensor, "batch step key"], block: Block, pattern: Float[Tensor, "batch head row key"]) -> None:
    """The block's rows that are among the last ones; a block has no keys behind its own rows."""
    ahead = rows.shape[2] - rows.shape[1]
    at = (block.queries >= ahead).nonzero()[:, 0]
    if len(at):
        steps, keys = (block.queries[at] - ahead).cpu(), block.keys.cpu()
        rows[:, steps[:, None], keys] = pattern[:, :, at].float().mean(1).cpu()
