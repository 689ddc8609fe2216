"""The residual stream at image tokens: what a probe is trained on."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.sites import Site


def patch_features(
    model: Model, samples: Samples, layer: int, *, batch: int = 8
) -> Float[Tensor, "sample patch d_model"]:
    """The residual stream of the main tower behind a layer, at the image tokens of each sample, in order.

    float32 on the CPU. Under a causal mask, patches in front of a question do not know it, so samples with one picture
    have the same features whatever is asked; take one sample per picture.

    ValueError for a model that names no image token, no samples, samples that differ in how many image tokens they have
    or have none, and a layer that the model does not have.
    """
    (token,) = image_tokens(model).ids
    counts = {int((inputs["input_ids"] == token).sum()) for inputs in samples.inputs}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"Samples have {sorted(counts)} image tokens; expected samples, all with the same number of them, from 1."
        )
    if not 0 <= layer < model.n_layers:
        raise ValueError(f"Layer {layer} was given; {model.name} has layers 0..{model.n_layers - 1}.")
    site, spared = str(Site("resid_post", layer)), known_words(model.hf, logits_to_keep=1, use_cache=False)
    features = torch.zeros(len(samples), counts.pop(), model.d_model)
    for indices, inputs in samples.batches(batch):
        keep = partial(_at, inputs["input_ids"] == token)
        with torch.no_grad():
            _, kept = model.record(inputs, names_filter=[site], reduce={"resid_post": keep}, **spared)
        features[indices] = kept[site].float().cpu()
    return features


def _at(image: Tensor, stream: Tensor, site: Site) -> Tensor:
    return stream[image.to(stream.device)].reshape(len(stream), -1, stream.shape[-1])
