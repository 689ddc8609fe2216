"""How information flows to CLS in a vision tower, and which patches would be pruned by it (FlowCut, 2505.19536).

r = attention of CLS to the patches, mean over heads, made to add up to 1
m = softmax over patches of v_CLS . v_j, mean over heads
c = (r + m) |mean over heads of v_j|_1 ;  C <- C / 2 + c / 2 from layer to layer, from 0
n = round((N - T) / sqrt(layers left) * (1 - (H(r) / ln N)^2)) patches go, N being left and T the target
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from headlens.analyses.vision.relatives.patch_sets import CLS, VISION
from headlens.analyses.vision.relatives.picture_columns import picture_columns
from headlens.analyses.vision.samples import Samples
from headlens.analyses.watched_run import watched_run
from headlens.hooks.attention_taps import Watch
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site

_EPSILON = 1e-12


@dataclass(frozen=True, eq=False)
class VisualFlow:
    """One picture. `importance` is C behind the last layer that was read, NaN for patches that were gone before it;
    `entropy` H(r) / ln N of each layer; `kept` the patches that are left behind each layer, in order."""

    importance: Float32[np.ndarray, " patch"]
    entropy: Float32[np.ndarray, " layer"]
    kept: tuple[Int64[np.ndarray, " _kept"], ...]

    @property
    def pruned(self) -> tuple[int, ...]:
        """How many patches went at each layer."""
        left = [len(self.importance), *(len(kept) for kept in self.kept)]
        return tuple(before - after for before, after in zip(left, left[1:], strict=False))


def even_entropy(r: Float[Tensor, " patch"]) -> float:
    """H(r) / ln N, 1 where r is uniform and 0 where it is all on one patch. A share of 0 adds nothing."""
    if len(r) < 2:
        return 1.0
    return float(-(r * (r + _EPSILON).log()).sum() / math.log(len(r)))


def number_to_prune(entropy: float, patches: int, target: int, layers_left: int) -> int:
    """n of the head of this file: 0 where attention is uniform (entropy 1), and most where it is all on one patch.
    Never more than leaves `target` patches, and never below 0."""
    surplus = max(patches - target, 0)
    wanted = surplus / math.sqrt(max(layers_left, 1)) * (1 - entropy**2)
    return min(max(round(wanted), 0), surplus)


def flow(
    relation: Sequence[Float[Tensor, " patch"]],
    values: Sequence[Float[Tensor, "head token d_head"]],
    target: int,
    every: int = 2,
) -> VisualFlow:
    """FlowCut's reading of one picture, from each layer's attention of CLS to the patches (mean over heads), and its
    values, of CLS first. Every `every`-th layer (the second first) prunes."""
    patches = len(relation[0])
    kept = torch.arange(patches)
    running = torch.zeros(patches, dtype=torch.float64)
    entropies, sets = [], []
    for layer, (own, value) in enumerate(zip(relation, values, strict=True)):
        r = own.double()[kept]
        r = r / r.sum().clamp(min=_EPSILON)
        cls, others = value.double()[:, 0], value.double()[:, 1:][:, kept]
        m = torch.einsum("hd,hpd->hp", cls, others).softmax(-1).mean(0)
        scores = (r + m) * others.mean(0).abs().sum(-1)
        running[kept] = running[kept] / 2 + scores / 2
        entropies.append(even_entropy(r))
        if (layer + 1) % every == 0:
            gone = number_to_prune(entropies[-1], len(kept), target, len(relation) - layer)
            best = running[kept].argsort(descending=True, stable=True)[: len(kept) - gone]
            kept = kept[best.sort().values]
        sets.append(kept.numpy().copy())
    before = sets[-2] if len(sets) > 1 else np.arange(patches)
    importance = np.full(patches, np.nan, np.float32)
    importance[before] = running.numpy()[before]
    return VisualFlow(importance, np.array(entropies, np.float32), tuple(sets))


def visual_flow(
    model: Model,
    samples: Samples,
    *,
    target: int | None = None,
    every: int = 2,
    layers: Sequence[int] | None = None,
    batch: int = 8,
) -> tuple[tuple[VisualFlow, ...], ...]:
    """How important each patch of each picture is to the flow into CLS, and what would be left of them (2505.19536).

    Nothing is pruned: the tower runs whole, and r and m are taken over the patches that would be left, where FlowCut
    runs later layers without the others. Its code changes classes of the model in place, takes the logarithm of 0,
    prunes as many patches in every picture of a batch as the one that loses most, and in models of high-resolution
    parts prunes once more behind the language model's first layer; here each picture is on its own, and log has an
    epsilon. Layers of the tower behind the one that the language model reads (LLaVA-1.5's last) are left out.

    Args:
        model: a vision-language model that sees through a tower with CLS as its first token, such as CLIP's, and has an
            image token for each patch.
        samples: prompts with pictures.
        target: how many patches are to be left at least; without, a quarter.
        every: layers from one pruning to the next, 2 as in the paper.
        layers: of the tower, in order; without, those that the language model reads through.
        batch: how many samples of equal length run at a time.

    Returns:
        For each sample a VisualFlow for each of its pictures. Larger importance means that more of CLS is drawn from a
        patch, and that it is kept longer; its units are those of v, so compare patches of one picture.

    Raises:
        ValueError: for a tower without CLS, patches that are merged or cut into parts before they are image tokens, no
            samples, a sample without pictures, a target or `every` below 1, layers that the tower does not have.
    """
    tower, chosen = _layers(model, layers)
    if not len(samples) or every < 1 or (target is not None and target < 1):
        raise ValueError(
            f"{len(samples)} samples, target={target} and every={every} were given; expected at least one of each."
        )
    counts = [[len(at) for at in picture_columns(model, inputs)] for inputs in samples.inputs]
    if bare := [at for at, own in enumerate(counts) if not own]:
        raise ValueError(f"Sample {bare[0]} has no picture; leave it out.")
    found: dict[int, tuple[VisualFlow, ...]] = {}
    for indices, inputs in samples.batches(batch):
        flows = _Flows()
        sites = [Site("pattern", layer, tower) for layer in chosen]
        watched_run(model, inputs)([Watch(site, flows.look, "The reading of visual flow") for site in sites])
        pictures, patches = len(flows.relation[chosen[0]]), flows.relation[chosen[0]].shape[1]
        own = [count for at in indices for count in counts[at]]
        if own != [patches] * pictures:
            raise ValueError(
                f"The vision tower of {model.name} saw {pictures} pictures of {patches} patches behind CLS, and its "
                f"prompts have image tokens for {own}; patches that are merged or cut into parts cannot be told apart."
            )
        goal = max(patches // 4, 1) if target is None else target
        each = iter([flow(*flows.of(picture, chosen), goal, every) for picture in range(pictures)])
        found |= {at: tuple(next(each) for _ in counts[at]) for at in indices}
    return tuple(found[at] for at in range(len(samples)))


@dataclass(eq=False)
class _Flows:
    """What CLS attends to, and every value, by layer."""

    relation: dict[int, Float[Tensor, "picture patch"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "picture head token d_head"]] = field(default_factory=dict)

    def look(self, block: Block, pattern: Float[Tensor, "picture head row token"]) -> None:
        # CLS is row 0; later blocks of the layer do not have it
        if block.first_row == 0:
            self.relation[block.layer] = pattern[:, :, 0, 1:].float().mean(1).cpu()
            self.values[block.layer] = block.value.detach().float().cpu()

    def of(self, picture: int, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        relation, values = ([by[layer][picture] for layer in layers] for by in (self.relation, self.values))
        return relation, values


def _layers(model: Model, layers: Sequence[int] | None) -> tuple[str, tuple[int, ...]]:
    """The tower's name, and the layers to read."""
    tower = model.towers.get(VISION)
    names = [name.split(".")[-1] for name, _ in model.hf.named_parameters()]
    if tower is None or not any(name in CLS for name in names):
        raise ValueError(
            f"{model.name} has no vision tower with a CLS token (SigLIP's has none), and flow is read at CLS; take a "
            "model that sees through CLIP."
        )
    depth = len(tower.layers)
    if layers is None:
        read = getattr(model.hf.config, "vision_feature_layer", -1)
        ends = [at if at >= 0 else depth + 1 + at for at in (read if isinstance(read, list | tuple) else [read])]
        return tower.name, tuple(range(max(*ends, 1)))
    chosen = tuple(layers)
    if not chosen or any(not 0 <= layer < depth for layer in chosen) or list(chosen) != sorted({*chosen}):
        raise ValueError(f"layers={[*chosen]} were given; expected some of 0..{depth - 1} of the tower, in order.")
    return tower.name, chosen
