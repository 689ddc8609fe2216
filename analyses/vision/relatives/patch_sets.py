"""Two sets of patches that a picture's CLS token looks at (2501.12206): local ones, and those that sum a picture up."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.sites import Site

CLS = ("class_embedding", "cls_token")
VISION = "vision"


def patch_sets(
    first: Float[Tensor, "picture patch"], last: Float[Tensor, "picture patch"], share: float = 0.25
) -> tuple[Bool[Tensor, "picture patch"], Bool[Tensor, "picture patch"]]:
    """Which patches of each picture are local, and which sum it up.

    `first` and `last` are the attention of CLS to each patch, summed over heads, in layer 0 and in the last layer but
    one of the vision tower. Summary patches are those with `last` above Q3 + 1.5 (Q3 - Q1); local ones the `share` of
    all patches (rounded down) with the most of `first`, without those that are summary. The sets are disjoint.
    """
    quartiles = torch.quantile(last.float(), torch.tensor([0.25, 0.75], device=last.device), -1, keepdim=True)
    summary = last > quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
    order = first.argsort(dim=-1, descending=True, stable=True)[:, : int(share * first.shape[-1])]
    most = torch.zeros_like(summary).scatter(-1, order, True)
    return most & ~summary, summary


def vision_layers(model: Model) -> tuple[Site, Site]:
    """The two patterns of the vision tower that the sets are read off.

    ValueError for a model without a vision tower whose first token is CLS, such as SigLIP's, or with one layer alone.
    """
    tower = model.towers.get(VISION)
    names = [name.split(".")[-1] for name, _ in model.hf.named_parameters()]
    if tower is None or not any(name in CLS for name in names):
        raise ValueError(
            f"{model.name} has no vision tower with a CLS token (SigLIP's has none), whose attention tells patches "
            "apart here; take a model that sees through CLIP, or pai(), which raises all patches alike."
        )
    if len(tower.layers) < 2:
        raise ValueError(f"The vision tower of {model.name} has one layer; the last but one is needed.")
    return Site("pattern", 0, VISION), Site("pattern", len(tower.layers) - 2, VISION)


def of_cls(pattern: Float[Tensor, "picture head query key"]) -> Float[Tensor, "picture patch"]:
    """What CLS, the first token, gives to each patch, summed over heads."""
    return pattern[:, :, 0, 1:].detach().float().sum(1)


def at_patches(image: Bool[Tensor, "batch pos"], values: Float[Tensor, "picture patch"]) -> Float[Tensor, "batch pos"]:
    """A value for each patch, at the image token that stands for it; 0 at text. Pictures are in the order of prompts,
    each of which may stand there several times in a row, for as many beams.

    ValueError where a picture has not one token for each of its patches.
    """
    times, left = divmod(int(image.sum()), values.numel())
    if times > 1 and not left and torch.equal(image[::times].repeat_interleave(times, 0), image):
        return at_patches(image[::times], values).repeat_interleave(times, 0)
    if times != 1 or left:
        raise ValueError(
            f"{len(values)} pictures of {values.shape[1]} patches were seen for {int(image.sum())} image tokens; "
            "expected one token for each patch, without CLS, merged patches or tokens for the ends of rows."
        )
    return torch.zeros(image.shape, device=image.device).masked_scatter(image, values.to(image.device).float())


def token_sets(
    model: Model, samples: Samples, *, share: float = 0.25, batch: int = 8
) -> tuple[dict[str, Bool[np.ndarray, " pos"]], ...]:
    """For each sample, which of its tokens are "local" and which are "summary" patches (2501.12206).

    ValueError for what `vision_layers` and `at_patches` refuse, and for a share outside of 0 to 1.
    """
    check_share(share)
    sites = vision_layers(model)
    (token,) = image_tokens(model).ids
    spared = known_words(model.hf, logits_to_keep=1, use_cache=False)
    found: dict[int, dict[str, np.ndarray]] = {}
    for indices, inputs in samples.batches(batch):
        image = inputs["input_ids"] == token
        if not bool(image.any()):
            sets = [torch.zeros_like(image)] * 2
        else:
            with torch.no_grad():
                _, kept = model.record(inputs, names_filter=[str(site) for site in {*sites}], **spared)
            first, last = (of_cls(kept[str(site)]) for site in sites)
            both = patch_sets(first, last, share)
            sets = [at_patches(image, each.float()) > 0 for each in both]
        for row, at in enumerate(indices):
            found[at] = {name: own[row].cpu().numpy() for name, own in zip(("local", "summary"), sets, strict=True)}
    return tuple(found[at] for at in range(len(samples)))


def check_share(share: float) -> None:
    """ValueError outside of 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} was given; expected the share of a picture's patches that are local, 0 to 1.")
