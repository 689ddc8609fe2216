"""Sinks planted by hand, to see what moving their attention can give back: a mechanism test for VAR (2503.03321).

A small model need not have a visual sink. Here some patches, such as empty cells of a picture, are made sinks by a
number added to the attention score of their keys, in every row. What the model then says moves away from what it said,
and since the sinks are known, so is what a redistribution can and cannot undo.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.vision.redistribution.image_centric import ImageCentric
from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.under import Under, edits_for
from headlens.analyses.watched_run import watched_run
from headlens.hooks.apply import Edit
from headlens.hooks.attention_taps import Watch
from headlens.hooks.edits import Call
from headlens.hooks.groups import Chosen, Positions
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site
from headlens.hooks.taps import Where


@dataclass(frozen=True)
class KnownSinks(ImageCentric):
    """The paper's rule for rows, with sinks that are known by their positions, [prompt, n] or [n]."""

    sinks: Positions  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, eq=False)
class PlantedSinks:
    """`score` added, in these layers and in all of their heads and rows, to the attention scores of the keys of each
    sample, absolute positions. A row's attention to a key is multiplied by e^score before it is made to sum to 1."""

    keys: Int[Tensor, "sample sink"]
    score: float
    layers: tuple[int, ...]

    def edits(self, samples: Sequence[int] | None = None) -> tuple[Edit, ...]:
        """To run these samples under as one batch, in this order (all of them, where none are named)."""
        pull = partial(_pull, self._of(samples), self.score)
        return tuple(Call(str(Site("attn_scores", layer)), pull) for layer in self.layers)

    def redistributed(
        self, model: Model, samples: Sequence[int] | None = None, *, move: float, non_sink: float, floor: float
    ) -> tuple[Edit, ...]:
        """The same sinks, and VAR told which they are, in the same layers: they give the share `move` to the other
        patches, in rows that `floor` and `non_sink` choose as for `redistribute`; both 0 choose every row with text
        behind an image."""
        rule = self.rule(model, samples, non_sink, floor)
        heads = [(layer, head) for layer in self.layers for head in range(model.n_heads)]
        to = Chosen(rule)
        moved = Recalibrate(heads, policy="transfer", donors=rule.sinks, receivers=to, beta=1 - move)
        return (*self.edits(samples), moved)

    def rule(self, model: Model, samples: Sequence[int] | None, non_sink: float, floor: float) -> KnownSinks:
        """Which rows are chosen where these keys are the sinks."""
        return KnownSinks(image_tokens(model), Positions(self._of(samples)), non_sink, floor)

    def _of(self, samples: Sequence[int] | None) -> Int[Tensor, "sample sink"]:
        return self.keys if samples is None else self.keys[[*samples]]


def free_patches(
    model: Model, samples: Samples, occupied: Sequence[Collection[int]], n: int = 3, seed: int = 0
) -> Int[Tensor, "sample n"]:
    """The positions of n patches of each sample that are not in `occupied` (patches counted from 0), drawn anew for
    each sample. ValueError where a sample has fewer, or unless there are as many sets as samples."""
    if len(occupied) != len(samples):
        raise ValueError(f"{len(occupied)} sets of patches were given for {len(samples)} samples; give one for each.")
    ids, draw, found = image_tokens(model).ids, np.random.default_rng(seed), []
    for at, (inputs, taken) in enumerate(zip(samples.inputs, occupied, strict=True)):
        patches = np.flatnonzero(np.isin(inputs["input_ids"][0].cpu().numpy(), ids))
        free = [int(position) for patch, position in enumerate(patches) if patch not in taken]
        if len(free) < n:
            raise ValueError(f"Sample {at} has {len(free)} patches that are not occupied; {n} were asked for.")
        found.append(sorted(draw.choice(free, n, replace=False).tolist()))
    return torch.tensor(found)


def next_token(
    model: Model, samples: Samples, under: Under = (), batch: int = 32
) -> Float[np.ndarray, "sample vocabulary"]:
    """Log-probabilities of the token behind each prompt."""
    found: dict[int, np.ndarray] = {}
    spared = known_words(model.hf, logits_to_keep=1, use_cache=False)
    for indices, inputs in samples.batches(batch):
        with torch.no_grad(), model.edited(*edits_for(under, indices)):
            own = model(inputs, **spared)[:, -1].float().log_softmax(-1)
        found |= dict(zip(indices, own.cpu().numpy(), strict=True))
    return np.stack([found[at] for at in range(len(samples))])


def divergence_of(
    clean: Float[np.ndarray, "sample vocabulary"], edited: Float[np.ndarray, "sample vocabulary"]
) -> Float[np.ndarray, " sample"]:
    """KL(clean | edited) of each sample in nats, from log-probabilities: 0 where nothing changed, and else positive."""
    likely = np.exp(clean.astype(np.float64))
    # what the clean run rules out adds nothing
    gap = np.subtract(clean, edited, out=np.zeros(clean.shape), where=likely > 0, dtype=np.float64)
    return (likely * gap).sum(-1)


@dataclass(frozen=True)
class Reached:
    """Over the text rows behind an image of all heads in the layers: the share of `rows` that the rule chooses, the
    share of the sinks' attention that is in those rows (`attention`), and the attention that sinks have in a row on
    average (`on_sinks`)."""

    rows: float
    attention: float
    on_sinks: float


def reached(
    model: Model, samples: Samples, planted: PlantedSinks, *, non_sink: float, floor: float, batch: int = 32
) -> Reached:
    """How much of what planted sinks hold the paper's choice of rows lets VAR move, under the planting.

    The more of a row its sinks have captured, the less likely the rule is to choose it, so that what is lost most is
    moved least.
    """
    sums = np.zeros(4)
    for indices, inputs in samples.batches(batch):
        look = _looking(planted.rule(model, indices, non_sink, floor), sums)
        watches = [Watch(Site("pattern", layer), look, "The count of rows") for layer in planted.layers]
        with model.edited(*planted.edits(indices)):
            watched_run(model, inputs)(watches)
    rows, chosen, held, in_chosen = sums.tolist()
    nan = float("nan")
    return Reached(chosen / rows if rows else nan, in_chosen / held if held else nan, held / rows if rows else nan)


def _looking(rule: KnownSinks, sums: np.ndarray) -> Callable[[Block, Tensor], None]:
    def look(block: Block, pattern: Tensor) -> None:
        looks = rule.looks(block, pattern)
        about = looks.about[:, None].expand_as(looks.chosen)
        held = torch.where(about, looks.on_sinks, 0)
        counted = (about, looks.chosen, held, torch.where(looks.chosen, held, 0))
        sums[:] += [float(each.sum(dtype=torch.float64)) for each in counted]

    return look


def _pull(
    keys: Int[Tensor, "prompt sink"], score: float, scores: Float[Tensor, "batch head query key"], hook: Where
) -> Tensor:
    if len(keys) != len(scores):
        raise ValueError(f"Sinks were planted in {len(keys)} prompts one by one, and {len(scores)} run; run those.")
    at = torch.arange(hook.key_start, hook.key_start + scores.shape[-1], device=scores.device)
    sinks = (at == keys.to(scores.device)[..., None]).any(1)
    return scores + score * sinks[:, None, None].to(scores)
