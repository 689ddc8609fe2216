"""Sink dimensions: the few residual dimensions in which attention sinks are massive (2503.03321), found from a model.

2503.03321 reads them off the token that starts every prompt, and its code has them as constants of a base model
(LLaMA-2-7B 1415 and 2533; of other sizes, others), fixed when it is imported. Here the model itself is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from headlens.analyses.vision.samples import Samples
from headlens.analyses.watched_run import watched_run
from headlens.hooks.groups import Massive
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.taps import Tap, Where

# 2503.03321 has 20 root mean squares, on models of this width
_PUBLISHED, _WIDTH = 20.0, 4096


def sink_threshold(width: int) -> float:
    """tau(D) = 0.3125 sqrt(D): from how many root mean squares on an activation is massive in a stream of this width.

    It is 20 at 4096, as 2503.03321 has it for all of its models. One dimension is at most sqrt(D) times the root mean
    square, so a fixed 20 can never be reached below 400 dimensions. In terms that know no width: the dimension holds
    400 / 4096 = 9.8% of the vector's squared length. The largest of D normal numbers is near sqrt(2 ln D), which is
    above tau(D) up to some 90 dimensions: in so narrow a stream ordinary tokens are found, and it says nothing.
    """
    return _PUBLISHED * (width / _WIDTH) ** 0.5


@dataclass(frozen=True, eq=False)
class SinkDimensions:
    """What was found. `sizes` are magnitudes of the first token before each layer, in its root mean squares (their
    median over samples, NaN in layers that were not looked at); dimension d is a sink dimension where the median of
    `sizes[:, d]` is above `above`. The largest come first."""

    dims: tuple[int, ...]
    above: float
    sizes: Float32[np.ndarray, "layer d_model"]

    def group(self) -> Massive:
        """The tokens that are sinks: larger than `above` in one of the dimensions. ValueError where there are none."""
        if not self.dims:
            raise ValueError(self.described())
        return Massive(self.dims, self.above)

    def described(self) -> str:
        """Which they are and how large, in a sentence."""
        median = np.nanmedian(self.sizes, 0)
        if not self.dims:
            return (
                f"No residual dimension of the first token is above {self.above:.2f} root mean squares (dimension "
                f"{int(median.argmax())} is largest, {median.max():.2f}), so this model has no sinks of this kind; to "
                "move the attention of other tokens, give dims= and above=."
            )
        largest = ", ".join(f"{dim} ({median[dim]:.1f})" for dim in self.dims)
        return f"Sink dimensions, with their size at the first token in root mean squares: {largest}."


def sink_dimensions(
    model: Model, samples: Samples, *, above: float | None = None, layers: Sequence[int] | None = None
) -> SinkDimensions:
    """The residual dimensions that are massive at the token every prompt starts with (2503.03321).

        x^ = x / sqrt(mean_d x_d^2), x the stream before a layer, without the norm's gain

    Dimension d counts where the median of |x^_d| over `layers` and samples is above the threshold. The first token of a
    causal model sees only itself, so one sample is run for each token that samples start with.

    Args:
        above: in root mean squares; without it `sink_threshold(model.d_model)`.
        layers: which to look at; without it all from 2 on, since massive activations arise in the first ones.

    Raises:
        ValueError: for no samples, a threshold that is not positive, or layers that the model does not have.
    """
    bound = sink_threshold(model.d_model) if above is None else above
    if not bound > 0:
        raise ValueError(f"above={above} was given; expected a positive number of root mean squares.")
    if not len(samples):
        raise ValueError("Sink dimensions are read off prompts, and there are no samples; give one or more.")
    chosen = [*(range(min(2, model.n_layers - 1), model.n_layers) if layers is None else layers)]
    if not chosen or not all(0 <= layer < model.n_layers for layer in chosen):
        raise ValueError(f"layers={chosen} were given; expected one or more of 0..{model.n_layers - 1}.")
    starts = {int(one["input_ids"][0, 0]): at for at, one in reversed([*enumerate(samples.inputs)])}
    found = np.full((len(starts), model.n_layers, model.d_model), np.nan, np.float32)
    for row, at in enumerate(sorted(starts.values())):
        taps = [
            Tap(Site("resid_pre", layer), partial(_note, found[row]), "The search for sink dimensions", observes=True)
            for layer in chosen
        ]
        watched_run(model, samples.inputs[at])(taps)
    sizes = np.full(found.shape[1:], np.nan, np.float32)
    sizes[chosen] = np.median(found[:, chosen], 0)
    median = np.median(sizes[chosen], 0)
    dims = sorted((int(dim) for dim in np.flatnonzero(median > bound)), key=lambda dim: -median[dim])
    sizes.setflags(write=False)
    return SinkDimensions(tuple(dims), float(bound), sizes)


def normed(resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """Magnitudes in root mean squares of each token's vector, as the group `Massive` takes them."""
    stream = resid.detach().float()
    return stream.abs() * stream.pow(2).mean(-1, keepdim=True).rsqrt()


def _note(found: Float32[np.ndarray, "layer d_model"], resid: Tensor, where: Where) -> Tensor:
    found[where.layer()] = normed(resid)[0, 0].cpu().numpy()
    return resid
