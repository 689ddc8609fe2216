"""Vision-aware head divergence (VHD, 2412.13949): how far a head's output moves when the picture is taken away."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.divergence.head_outliers import outlying
from headlens.analyses.vision.divergence.head_reads import distances, last_z, last_z_without
from headlens.analyses.vision.divergence.image_free import ImageFree, image_free
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.hooks.model import Model


def divergence(
    model: Model,
    samples: Samples,
    *,
    without: str = "deleted",
    position: str | None = None,
    relative: bool = False,
    projected: bool = False,
    zero_outliers: bool = False,
    batch: int = 8,
    progress: bool = True,
) -> HeadMap:
    """How far the output of each head moves at the last token of the prompts when the picture is taken away.

    VHD = |z - z'|_2, z [d_head] being the head's output before W_O, at the last token of a prompt with its picture, and
    z' that of the same prompt without it (2412.13949). Heads are query heads, also where they share keys and values.
    VHD says how sensitive a head is, not whether what it says is right. The authors' code could not be read; a port to
    Qwen2.5-VL reads the same z at the same token, but leaves out the rule of outliers.

    Deleting image tokens also moves the text to other positions, and part of the VHD is that: with `position="kept"`
    the text stays where it was, `position_divergence` is the rest alone, and `without="blank"` and `"mean"` leave every
    token in place (`image_free.py`). Compare two ways by `headlens.compare`.

    Args:
        model: a vision-language model whose picture stands among its tokens.
        samples: prompts with pictures. Their clusters (one scene each) are what intervals resample.
        without: "deleted" (the paper), "blank" or "mean".
        position: of the text behind deleted tokens: "shifted" (the paper, and the default for "deleted") or "kept".
        relative: divide by |z|, since heads with large values move far; NaN where z is 0.
        projected: |(z - z') W_O|, which is what the residual stream sees, and with `relative` in shares of |z W_O|.
        zero_outliers: put 0 for heads that surge without the picture, per sample and layer, as the paper does before it
            selects (`head_outliers.py`); the rule is about |z - z'| also where the map is relative or projected.
        batch: samples that run together, where they are of equal length.
        progress: show a bar.

    Returns:
        A HeadMap of [layer, head], the mean over the samples, with the samples' own. Units: those of z (or of the
        residual stream, where projected), or shares of its length where relative. Larger means that the head's output
        depends more on the picture; it is never negative.

    Raises:
        ValueError: for no samples, and for what `image_free` refuses.
    """
    _check(samples, batch)
    free = image_free(model, samples, without, position, batch)
    found, surging = np.full((2, len(samples), model.n_layers, model.n_heads), np.nan, np.float32)
    for some, z, other in _pairs(model, samples, free, batch, progress):
        found[some] = distances(model, z, other, relative, projected)[:, 0].cpu().numpy()
        surging[some] = outlying((z - other).norm(dim=-1), other.square().sum(-1))[:, 0].cpu().numpy()
    if zero_outliers:
        found = np.where(surging == 1, 0, found)
    asked = {"without": free.way, "position": free.position, "zero_outliers": zero_outliers}
    return _map(model, samples, found, relative, projected, "vision-aware head divergence", _SEEN, asked)


def position_divergence(
    model: Model,
    samples: Samples,
    *,
    relative: bool = False,
    projected: bool = False,
    batch: int = 8,
    progress: bool = True,
) -> HeadMap:
    """How far each head's output moves by the positions of the text alone: |z' - z''|_2, both without image tokens, z'
    with the text where it was behind the picture and z'' with it moved up.

    It is the share of position in the paper's VHD (2412.13949), which mixes both: by the triangle inequality that lies
    within this of `divergence(position="kept")`, sample by sample. It is rounding where positions are relative and all
    text stands behind the picture, since then no distance between two tokens changes.

    Arguments, units, dims and errors are those of `divergence`; relative is to |z'|.
    """
    _check(samples, batch)
    kept = image_free(model, samples, "deleted", "kept", batch)
    moved = image_free(model, samples, "deleted", "shifted", batch)
    found = np.full((len(samples), model.n_layers, model.n_heads), np.nan, np.float32)
    for some, z, other in _pairs(kept.reader, kept.samples, moved, batch, progress):
        found[some] = distances(model, z, other, relative, projected)[:, 0].cpu().numpy()
    return _map(model, samples, found, relative, projected, "head divergence by position", _MOVED, {"without": "both"})


_SEEN = "Larger means that the head's output depends more on the picture; this is no measure of being right."
_MOVED = "Larger means that the head's output depends more on where the text stands, with no picture in either run."


def _check(samples: Samples, batch: int) -> None:
    if not len(samples) or batch < 1:
        raise ValueError(f"{len(samples)} samples and batch={batch} were given; expected at least one of each.")


def _pairs(
    model: Model, samples: Samples, free: ImageFree, batch: int, progress: bool
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """z of some samples at a time as they are, and without their pictures."""
    with tqdm(total=len(samples), unit=" samples", desc="divergence", disable=not progress) as bar:
        for some, inputs in samples.batches(batch):
            yield some, last_z(model, inputs), last_z_without(free, some, batch)
            bar.update(len(some))


def _map(
    model: Model,
    samples: Samples,
    found: np.ndarray,
    relative: bool,
    projected: bool,
    name: str,
    sign: str,
    asked: Mapping[str, Any],
) -> HeadMap:
    units = "L2 norm in the residual stream" if projected else "L2 norm of z"
    if relative:
        units = f"share of the {units}"
    return HeadMap.from_samples(
        found,
        dims=("layer", "head"),
        name=name,
        units=units,
        sign=sign,
        clusters=samples.clusters,
        provenance={
            **samples_origin(model, samples),
            "site": "z",
            "read": "the last token",
            "source": "2412.13949",
            **asked,
            "relative": relative,
            "projected": projected,
        },
    )
