"""Visual sinks: image patches with massive activations (2503.03321), by sample, layer and position."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from headlens.analyses.vision.redistribution.sink_dimensions import normed
from headlens.analyses.vision.samples import Samples
from headlens.analyses.watched_run import watched_run
from headlens.hooks.groups import Image, Massive, TokenIds
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.taps import Tap, Where
from headlens.hooks.token_kinds import Resolving

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class VisualSinks:
    """What was found in each sample: `phi`, its tokens' largest magnitude in a sink dimension, in root mean squares of
    the token's vector before each layer, and which tokens are image patches."""

    phi: tuple[Float32[np.ndarray, "layer _pos"], ...]
    image: tuple[Bool[np.ndarray, " _pos"], ...]
    group: Massive

    def at(self, sample: int) -> Bool[np.ndarray, "layer pos"]:
        """Which tokens of a sample are image patches and sinks, before each layer."""
        return (self.phi[sample] > self.group.above) & self.image[sample]

    @property
    def share(self) -> Float32[np.ndarray, "sample layer"]:
        """The share of a sample's patches that are sinks, NaN without patches. It drifts upward where the norm of the
        stream grows with depth under a fixed threshold, so look at it, and at `phi`, before trusting a threshold."""
        counts = np.array([image.sum() for image in self.image])[:, None]
        found = np.array([self.at(sample).sum(1) for sample in range(len(self.phi))])
        return np.where(counts > 0, found / np.maximum(counts, 1), np.nan).astype(np.float32)

    def to_frame(self) -> "pandas.DataFrame":
        """A row per patch and layer: sample, layer, pos, phi, sink."""
        import pandas

        parts = []
        for sample, (phi, image) in enumerate(zip(self.phi, self.image, strict=True)):
            layers, patches = np.indices((len(phi), int(image.sum())))
            places = np.flatnonzero(image)[patches.ravel()]
            own = phi[layers.ravel(), places]
            columns = {"sample": sample, "layer": layers.ravel(), "pos": places, "phi": own}
            parts.append(pandas.DataFrame({**columns, "sink": own > self.group.above}))
        return pandas.concat(parts, ignore_index=True)


def visual_sinks(model: Model, samples: Samples, group: Massive, *, batch: int = 8) -> VisualSinks:
    """Which image patches are sinks before which layer: phi > group.above, for (2503.03321)

        phi = max over the sink dimensions d of |x_d| / sqrt(mean x^2)

    with x the residual stream before the layer. `group` is what `sink_dimensions(...).group()` gives. The paper has >=
    where its code has >, as here; the code adds 1e-6 to the mean, which is left out. Several pictures in a prompt, and
    `batch` samples at a time, each keep their own sinks.

    ValueError for a model that names no image token, no samples, or a dimension that the stream does not have.
    """
    image = image_tokens(model)
    if not len(samples):
        raise ValueError("There are no samples to look for visual sinks in; give one or more.")
    if max(group.dims) >= model.d_model:
        raise ValueError(f"Dimension {max(group.dims)} was given; the residual stream has 0..{model.d_model - 1}.")
    phi: dict[int, np.ndarray] = {}
    for indices, inputs in samples.batches(batch):
        found: dict[int, Tensor] = {}
        note = partial(_note, group, found)
        sites = [Site("resid_pre", layer) for layer in range(model.n_layers)]
        watched_run(model, inputs)([Tap(site, note, "The search for visual sinks", observes=True) for site in sites])
        together = torch.stack([found[layer] for layer in range(model.n_layers)], 1).cpu().numpy()
        phi |= dict(zip(indices, together, strict=True))
    patches = tuple(np.isin(one["input_ids"][0].cpu().numpy(), image.ids) for one in samples.inputs)
    return VisualSinks(tuple(phi[at] for at in range(len(samples))), patches, group)


def image_tokens(model: Model) -> TokenIds:
    """The token that stands for each image patch. ValueError for a model that names none."""
    group = Resolving(None, model.hf.config)(Image())
    assert isinstance(group, TokenIds)
    return group


def _note(group: Massive, found: dict[int, Tensor], resid: Tensor, where: Where) -> Tensor:
    found[where.layer()] = normed(resid)[..., [*group.dims]].amax(-1)
    return resid
