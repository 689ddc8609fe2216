"""Vision-aware head reinforcement (VHR, 2412.13949): louder heads where the picture matters to what they say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.divergence.head_outliers import above_median, outlying
from headlens.analyses.vision.divergence.head_reads import last_z_without
from headlens.analyses.vision.divergence.image_free import image_free
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.hooks.edits import Call, Gate
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.sites import Head, Site
from headlens.hooks.taps import Where


@dataclass(frozen=True, eq=False)
class Reinforcement:
    """Which heads of each sample are multiplied by `alpha`, and the VHD that chose them: that of a layer is measured
    with the chosen heads of the `layers` before it already reinforced, and holds outliers as they are."""

    heads: Bool[np.ndarray, "sample layer head"]
    alpha: float
    layers: tuple[int, ...]
    divergence: HeadMap

    def edits(self, samples: Sequence[int] | None = None) -> tuple[Gate | Call, ...]:
        """What to run these samples under as one batch, in this order (all of them, where none are named):
        `with model.edited(*found.edits([4, 1])): model.generate(...)`.

        A `Gate` where all choose the same heads, so always for a single sample, and else a `Call` for each layer, which
        gives each prompt its own. Both act on every row of the prefill and on every cached step. None, and so no edit,
        where no head is chosen.

        A `Call` raises ValueError in a run of another number of prompts, as with several beams.
        """
        chosen = self.heads if samples is None else self.heads[[*samples]]
        if not chosen.any():
            return ()
        if (chosen == chosen[:1]).all():
            return (Gate([Head(int(layer), int(head)) for layer, head in np.argwhere(chosen[0])], self.alpha),)
        own = torch.from_numpy(chosen)
        layers = np.flatnonzero(chosen.any((0, 2)))
        return tuple(Call(str(Site("z", int(at))), partial(_louder, own[:, at], self.alpha)) for at in layers)

    def controls(self, seed: int = 0) -> dict[str, "Reinforcement"]:
        """The same strength on other heads: as many of each layer drawn at "random", as many with the "lowest" VHD, and
        "all" heads of the layers. What these do too is not owed to the picture."""
        draw = np.random.default_rng(seed)
        measured = self.divergence.samples
        assert measured is not None
        keys = {"random": draw.random(self.heads.shape), "lowest": measured}
        counts = self.heads.sum(-1, keepdims=True)
        sets = {name: values.argsort(-1).argsort(-1) < counts for name, values in keys.items()}
        everything = np.zeros_like(self.heads)
        everything[:, [*self.layers]] = True
        return {name: replace(self, heads=heads) for name, heads in {**sets, "all": everything}.items()}


def reinforce(
    model: Model,
    samples: Samples,
    *,
    alpha: float = 2.0,
    layers: Sequence[int] | None = None,
    without: str = "deleted",
    position: str | None = None,
    zero_outliers: bool = True,
    batch: int = 8,
    progress: bool = True,
) -> Reinforcement:
    """Choose, for each sample, the heads that depend on the picture, and multiply what they say by alpha (VHR).

    In each layer those heads are chosen whose VHD at the last token of the prompt is above their layer's median, and
    z <- alpha z at all positions from there on (2412.13949). Layers are gone through in order within one run, so that
    each is measured with the chosen heads before it already reinforced. The heads stay for the whole answer.

    The gain is on z, so a bias of the output projection stays as it is. The paper's proposition, that the residual
    stream turns towards what a louder head adds, holds for one head and for the sum of several, not for each of them.

    A louder head moves answers whether or not it is right. Report what this does beside `controls()`, at matched recall
    and length, and beside the area under the curve: a threshold that moves alone raises accuracy too.

    Where the paper leaves a choice: the run without the picture is never reinforced. Its layers are its own for each
    model (1 and the last 14 of 32 of LLaVA-1.5-7B: `layers=[1, *range(18, 32)]`); here they are the last half, unless
    named. A port to Qwen2.5-VL leaves out the rule of outliers (`zero_outliers=False`) and chooses all layers in one
    run that is not reinforced, which is not offered here.

    Args:
        model: a vision-language model whose picture stands among its tokens.
        samples: prompts with pictures.
        alpha: the gain; 1 changes nothing, 0.5 is the paper's opposite direction, 2 what it uses.
        layers: which layers are reinforced, by number from 0.
        without, position: how the picture is taken away, as for `divergence`.
        zero_outliers: heads that surge without the picture count as 0, so they are not chosen (`head_outliers.py`).
        batch: samples that run together, where they are of equal length.
        progress: show a bar.

    Returns:
        A Reinforcement; its `edits` are for `model.edited`.

    Raises:
        ValueError: for no samples, an alpha that is not finite, no layers or some that the model does not have, and for
            what `image_free` refuses.
    """
    if not len(samples) or batch < 1 or not math.isfinite(alpha):
        raise ValueError(
            f"{len(samples)} samples, batch={batch} and alpha={alpha} were given; expected at least one of the first "
            "two, and a finite gain."
        )
    wanted = tuple(range(model.n_layers // 2, model.n_layers)) if layers is None else tuple(sorted({*layers}))
    if not wanted or wanted[0] < 0 or wanted[-1] >= model.n_layers:
        raise ValueError(f"layers={layers} were given; expected one or more of 0 to {model.n_layers - 1}.")
    free = image_free(model, samples, without, position, batch)
    spared = known_words(model.hf, logits_to_keep=1, use_cache=False)
    shape = (len(samples), model.n_layers, model.n_heads)
    chosen, found = np.zeros(shape, bool), np.full(shape, np.nan, np.float32)
    with tqdm(total=len(samples), unit=" samples", desc="reinforce", disable=not progress) as bar:
        for some, inputs in samples.batches(batch):
            choice = _Choice(last_z_without(free, some, batch)[:, 0], alpha, wanted, zero_outliers, {})
            sites = [str(Site("z", layer)) for layer in range(model.n_layers)]
            with torch.no_grad(), model.edited(*(Call(site, choice) for site in sites)):
                model(inputs, **spared)
            for layer, (moved, own) in choice.made.items():
                found[some, layer], chosen[some, layer] = moved.cpu().numpy(), own.cpu().numpy()
            bar.update(len(some))
    about = {"without": free.way, "position": free.position, "alpha": alpha, "layers": [*wanted]}
    measured = HeadMap.from_samples(
        found,
        dims=("layer", "head"),
        name="vision-aware head divergence under reinforcement",
        units="L2 norm of z",
        sign="Larger means that the head's output depends more on the picture; this is no measure of being right.",
        clusters=samples.clusters,
        provenance={
            **samples_origin(model, samples),
            "site": "z",
            "read": "the last token",
            "source": "2412.13949",
            **about,
            "zero_outliers": zero_outliers,
        },
    )
    return Reinforcement(chosen, alpha, wanted, measured)


@dataclass(frozen=True, eq=False)
class _Choice:
    """Heads chosen and reinforced as the run goes up through the layers."""

    other: Float[Tensor, "batch layer head d_head"]
    alpha: float
    layers: tuple[int, ...]
    zero_outliers: bool
    made: dict[int, tuple[Tensor, Tensor]]  # by layer: VHD, and which heads are chosen, both [batch, head]

    def __call__(self, z: Tensor, hook: Where) -> Tensor:
        layer = hook.layer()
        other = self.other[:, layer].to(z.device)
        moved = (z[:, -1].float() - other).norm(dim=-1)
        counted = moved
        if self.zero_outliers:
            counted = moved.masked_fill(outlying(moved, other.square().sum(-1)), 0)
        own = above_median(counted) if layer in self.layers else torch.zeros_like(moved, dtype=torch.bool)
        self.made[layer] = moved, own
        return _louder(own, self.alpha, z, hook)


def _louder(
    heads: Bool[Tensor, "batch head"], alpha: float, z: Float[Tensor, "prompt pos head d_head"], hook: Where
) -> Float[Tensor, "prompt pos head d_head"]:
    if len(heads) != len(z):
        raise ValueError(
            f"Heads were chosen for {len(heads)} prompts one by one, and {len(z)} run; run those, without beams."
        )
    return torch.where(heads.to(z.device)[:, None, :, None], z * alpha, z)
