"""What heads say at the last tokens of prompts, and how far apart two such readings are."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.vision.divergence.image_free import ImageFree
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.sites import Site


def last_z(model: Model, inputs: Mapping[str, Tensor], rows: int = 1) -> Float[Tensor, "batch row layer head d_head"]:
    """z of every head of the main tower, before W_O, at the last `rows` tokens of prompts without padding."""
    spared = known_words(model.hf, logits_to_keep=1, use_cache=False)
    with torch.no_grad():
        # to one device: layers may be spread over several
        _, kept = model.record(
            inputs, names_filter=["z"], reduce={"z": lambda z, _: z[:, -rows:]}, device=model.device, **spared
        )
    return torch.stack([kept[str(Site("z", layer))].float() for layer in range(model.n_layers)], 2)


def last_z_without(
    free: ImageFree, samples: list[int], batch: int, rows: int = 1
) -> Float[Tensor, "batch row layer head d_head"]:
    """The same of some samples without their pictures, in the order of `samples`."""
    parts: dict[int, Tensor] = {}
    for own, inputs in free.samples.subset(samples).batches(batch):
        with free.running(inputs):
            parts |= dict(zip(own, last_z(free.reader, inputs, rows), strict=True))
    return torch.stack([parts[at] for at in range(len(samples))])


def projected(
    model: Model, z: Float[Tensor, "batch row layer head d_head"]
) -> Float[Tensor, "batch row layer head d_model"]:
    """What each head adds to the residual stream, z W_O, without a bias and before a post-norm (Gemma)."""
    weights = torch.stack([layer.output_weights(model.n_heads).detach().float().to(z.device) for layer in model.layers])
    return torch.einsum("brlhd,lhdm->brlhm", z, weights)


def distances(
    model: Model,
    z: Float[Tensor, "batch row layer head d_head"],
    other: Float[Tensor, "batch row layer head d_head"],
    relative: bool,
    through_output: bool,
) -> Float[Tensor, "batch row layer head"]:
    """|z - other|, or |(z - other) W_O|; relative to |z|, or |z W_O|, where asked: NaN where that is 0."""
    change, whole = z - other, z
    if through_output:
        change, whole = projected(model, change), projected(model, whole)
    moved = change.norm(dim=-1)
    return moved / whole.norm(dim=-1).masked_fill((whole == 0).all(-1), torch.nan) if relative else moved
