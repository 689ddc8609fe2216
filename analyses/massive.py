"""Massive activations (2402.17762): a few residual dimensions that are enormous at a few tokens, whatever the text.

Tokens that have one are those that heads park their attention on; 2503.03321 finds image tokens that are sinks by them.
A coordinate is massive where its magnitude is at least `least` and `ratio` times the median magnitude of its layer's
residual stream, over all tokens and dimensions of the prompt (2402.17762 has 100 and about 1000).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from headlens.analyses.prompt_tokens import PromptTokens, prompt_tokens
from headlens.analyses.watched_run import n_prompts, watched_run
from headlens.hooks.groups import Massive
from headlens.hooks.inputs import Tokens
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.taps import Tap, Where

if TYPE_CHECKING:
    import pandas

LEAST, RATIO = 100.0, 1000.0


class Activation(NamedTuple):
    """One massive coordinate of the residual stream before a layer, or behind the last, whose number is n_layers."""

    prompt: int
    layer: int
    pos: int
    dim: int
    value: float
    ratio: float  # of its magnitude to the layer's median
    normed: float  # its magnitude, the token's vector divided by its root mean square


@dataclass(frozen=True, eq=False)
class MassiveActivations:
    """What was found, and `peak`: each token's largest magnitude over the median of its layer, NaN at padding."""

    found: tuple[Activation, ...]
    peak: Float32[np.ndarray, "prompt stream pos"]  # before layer 0, 1 ..., and behind the last
    prompts: PromptTokens
    least: float
    ratio: float

    @property
    def dims(self) -> tuple[int, ...]:
        """The residual dimensions that are massive somewhere, the largest first."""
        largest: dict[int, float] = {}
        for one in self.found:
            largest[one.dim] = max(abs(one.value), largest.get(one.dim, 0.0))
        return tuple(sorted(largest, key=lambda dim: -largest[dim]))

    @property
    def at(self) -> Bool[np.ndarray, "prompt stream pos"]:
        """Where a token has a massive activation."""
        there = np.zeros(self.peak.shape, bool)
        for one in self.found:
            there[one.prompt, one.layer, one.pos] = True
        return there

    def group(self, above: float | None = None) -> Massive:
        """The group of keys with such activations, for edits: in each run and layer anew, those that are larger than
        `above` in one of these dimensions when divided by the token's root mean square (2503.03321 has 20).

        Without `above` it is just low enough for all tokens that were found. That leaves out the magnitude itself, so
        tokens that were not found may be in the group, in layers where they have the same direction.

        ValueError where nothing was found.
        """
        if not self.found:
            raise ValueError(
                f"No activation was massive (at least {self.least:g}, and {self.ratio:g} times the median), so there "
                "is no group of them; look for smaller ones with least= and ratio=."
            )
        strongest: dict[tuple[int, int, int], float] = {}
        for one in self.found:
            place = (one.prompt, one.layer, one.pos)
            strongest[place] = max(one.normed, strongest.get(place, 0.0))
        return Massive(tuple(sorted(self.dims)), 0.999 * min(strongest.values()) if above is None else above)

    def to_frame(self) -> "pandas.DataFrame":
        """A row per massive coordinate: prompt, layer, pos, token, kind, dim, value, ratio, normed.

        `layer` is the one before which the stream has it; the number of layers stands for behind the last.
        """
        import pandas

        frame = pandas.DataFrame(self.found, columns=[*Activation._fields])
        places = [(one.prompt, one.pos) for one in self.found]
        frame.insert(3, "token", [self.prompts.text(*place) for place in places])
        frame.insert(4, "kind", [self.prompts.kind(*place) for place in places])
        return frame

    def described(self) -> str:
        """A sentence for each of the three largest dimensions: where it is massive, from which layer, how large."""
        if not self.found:
            return (
                f"No residual dimension is massive (at least {self.least:g}, and {self.ratio:g} times the median "
                f"magnitude of its layer); the largest is {np.nanmax(self.peak):.0f} times the median."
            )
        return " ".join(self._described(dim) for dim in self.dims[:3])

    def _described(self, dim: int) -> str:
        own = [one for one in self.found if one.dim == dim]
        largest = max(own, key=lambda one: abs(one.value))
        places = {(one.prompt, one.pos) for one in own}
        first = sum(pos == self.prompts.firsts[prompt] for prompt, pos in places)
        layers = [one.layer for one in own]
        span = f"layer {min(layers)}" + (f" to {max(layers)}" if max(layers) > min(layers) else "")
        return (
            f"Residual dimension {dim} is massive before {span}, at the first token of {first} of {len(self.peak)} "
            f"prompts and at {len(places) - first} other tokens: up to {largest.value:.0f}, {largest.ratio:.0f} times "
            f"the median magnitude of its layer and {largest.normed:.1f} times the token's root mean square."
        )


def massive(model: Model, tokens: Tokens, *, least: float = LEAST, ratio: float = RATIO) -> MassiveActivations:
    """Which residual dimensions are massive, at which tokens of these prompts, from which layer on (2402.17762).

    Args:
        tokens: text, texts, ids or a processor's output; padding counts for nothing.
        least: the smallest magnitude that counts.
        ratio: how many times the median magnitude of its layer, over all tokens and dimensions of the prompt. 100 finds
            also the smaller ones of sinks behind the first token, as SmolLM2-135M has at " the" and at line breaks.

    Raises:
        ValueError: for a bound that is not positive, no tokens, or a cache that was filled before.
    """
    run = watched_run(model, tokens)
    n_prompts(run)  # refuses a run of nothing
    notes = MassiveNotes(run.real, least, ratio)
    run(notes.taps(model))
    return notes.result(model.tokenizer, run.ids)


@dataclass(eq=False)
class MassiveNotes:
    """Taps that keep of each layer's residual stream only what is massive, and each token's largest magnitude."""

    real: Bool[Tensor, "prompt pos"] | None  # where there is no padding, known from the first stream on
    least: float = LEAST
    ratio: float = RATIO
    found: list[Activation] = field(default_factory=list)
    peaks: dict[int, Tensor] = field(default_factory=dict)  # of each stream

    def __post_init__(self) -> None:
        if not (self.least > 0 and self.ratio > 0):
            raise ValueError(f"least={self.least} and ratio={self.ratio} were given; expected positive numbers.")

    def taps(self, model: Model) -> list[Tap]:
        """On the residual stream before every layer of the main tower, and behind the last."""
        sites = [*(Site("resid_pre", layer) for layer in range(model.n_layers)), Site("resid_post", model.n_layers - 1)]
        asked_by = "The search for massive activations"
        return [Tap(site, partial(self._note, at), asked_by, observes=True) for at, site in enumerate(sites)]

    def result(self, tokenizer: Any, ids: Int[Tensor, "prompt pos"] | None) -> MassiveActivations:
        """Everything that the taps noted in a run of these tokens, in the order of prompts and layers."""
        assert self.real is not None  # the run has been
        prompts = prompt_tokens(tokenizer, ids, self.real)
        peak = torch.stack([self.peaks[at] for at in sorted(self.peaks)], 1).numpy()
        peak.setflags(write=False)
        return MassiveActivations(tuple(sorted(self.found)), peak, prompts, self.least, self.ratio)

    def _note(self, at: int, resid: Float[Tensor, "prompt pos d_model"], where: Where) -> Tensor:
        stream = resid.detach().float()
        size = stream.abs()
        if self.real is None:
            self.real = torch.ones_like(size[..., 0], dtype=torch.bool)
        median = torch.stack([own[rows].median() for own, rows in zip(size, self.real, strict=True)])[:, None, None]
        ratio, normed = size / median, size * stream.pow(2).mean(-1, keepdim=True).rsqrt()
        self.peaks[at] = torch.where(self.real, ratio.amax(-1), torch.nan).cpu()
        there = (size >= self.least) & (ratio >= self.ratio) & self.real[..., None]
        columns = [*there.nonzero().unbind(1), *(each[there] for each in (stream, ratio, normed))]
        for prompt, *numbers in zip(*(column.tolist() for column in columns), strict=True):
            self.found.append(Activation(prompt, at, *numbers))
        return resid
