"""What END reads of lettered options, head by head, and what the heads say for each letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.end_runs import EndRun, end_runs
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.multiple_choice.options import Options, options_of
from headlens.analyses.task import Task
from headlens.hooks.head_output import head_output
from headlens.hooks.model import Model
from headlens.hooks.readout import Readout, find_readout
from headlens.hooks.sites import Head, Site, parse_heads


@dataclass(frozen=True, eq=False)
class LetterAttention:
    """At END of each clean prompt: shares of attention, and logits of the letters.

    `said` is what a head writes into each letter's logit, and `stream` what the residual stream before its layer says
    there already, both minus the mean of the other letters', by direct logit attribution with the final norm's
    statistics of that very position. `logits` are the model's own, minus nothing.
    """

    heads: tuple[Head, ...]
    options: Options
    letters: np.ndarray  # prompt head item: share on the letter
    contents: np.ndarray  # prompt head item: share on the content
    last: np.ndarray  # prompt head: share on what follows the last option's content, END itself counted
    said: np.ndarray  # prompt head item
    stream: np.ndarray  # prompt head item
    logits: np.ndarray  # prompt item

    @property
    def right(self) -> np.ndarray:
        """[prompt]: whether the right letter is the likeliest of the letters, of which none is as likely."""
        others = np.where(self.options.is_right, -np.inf, self.logits).max(1)
        return self.options.of_right(self.logits) > others


def letter_attention(
    model: Model, task: Task, heads: Sequence[Any] | str, memory: str | int | None = "1GiB"
) -> LetterAttention:
    """Run the clean prompts of a task with options once, and read what these heads do at END.

    ValueError for a task without options, heads that there are not, and models that `direct_logits` refuses.
    """
    refuse_unfit(model, task)
    named = parse_heads(heads, model.n_layers, model.n_heads)
    if not named:
        raise ValueError("No heads were given; name some, such as output_nodes(model, task).heads[:10].")
    options, readout = options_of(model, task), find_readout(model)
    layers = sorted({head.layer for head in named})
    outputs = {layer: head_output(model, model.layers[layer]) for layer in layers}
    at_heads = [Site(name, layer) for layer in layers for name in ("pattern", "z", "attn_out", "resid_pre")]
    final = Site("resid_post", model.n_layers - 1)
    shape = (len(task), len(named), options.items)
    letters, contents, said, stream = (np.zeros(shape, np.float32) for _ in range(4))
    last, logits = np.zeros(shape[:2], np.float32), np.zeros((shape[0], shape[2]), np.float32)
    for end in end_runs(model, task, "clean", [*at_heads, final], memory):
        rows = [*end.prompts]
        resid = end.at(final.name, final.layer)
        toward = letter_directions(readout, resid, options, end)
        logits[rows] = readout.logits_of(resid, options.tokens[rows].to(resid.device)).float().cpu().numpy()
        behind = torch.arange(end.at("pattern", layers[0]).shape[-1]) > options.content_at[rows].amax(1)[:, None]
        for layer in layers:
            pattern, z = end.at("pattern", layer).cpu(), end.at("z", layer)
            before = torch.einsum("rm,irm->ri", end.at("resid_pre", layer), toward).cpu().numpy()
            by_head = torch.stack(
                [(z * outputs[layer].reading(one, z, end.at("attn_out", layer))).sum(-1) for one in toward], -1
            )
            for at, head in enumerate(named):
                if head.layer == layer:
                    row = pattern[:, head.head]
                    letters[rows, at] = row.gather(1, options.letter_at[rows]).numpy()
                    contents[rows, at] = row.gather(1, options.content_at[rows]).numpy()
                    last[rows, at] = (row * behind).sum(-1).numpy()
                    said[rows, at], stream[rows, at] = by_head[:, head.head].cpu().numpy(), before
    return LetterAttention(named, options, letters, contents, last, said, stream, logits)


def letter_directions(
    readout: Readout, resid: Float[Tensor, "prompt d_model"], options: Options, end: EndRun
) -> Float[Tensor, "item prompt d_model"]:
    """The direction of the residual stream that writes each letter's logit minus the mean of the others'."""
    tokens = options.tokens[[*end.prompts]].to(resid.device).unbind(1)
    against_first = torch.stack([readout.direction(resid, token, tokens[0]) for token in tokens])
    centred = against_first - against_first.mean(0)
    return centred * (len(tokens) / (len(tokens) - 1))
