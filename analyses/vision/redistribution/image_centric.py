"""Image-centric heads (2503.03321): heads whose attention, at a text row, goes to the image and not just to its sinks.

    V_i = sum of A_ij over image patches j ;  S_i = sum of A_ij over those patches that are sinks
    row i of a head is chosen where  V_i >= floor  and  1 - S_i / V_i >= non_sink

The released code has S_i / (V_i + 1e-6 N) <= rho for the second, N the number of patches: its rho bounds the share of
sinks, where the paper's bounds the share of the others. They agree only at 0.5, which the code ships with.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.watched_run import watched_run
from headlens.hooks.attention_taps import Watch
from headlens.hooks.clock import ticking
from headlens.hooks.group_masks import keys_of, note_massive
from headlens.hooks.groups import Massive, TokenIds
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site
from headlens.hooks.taps import Tap, Where

_SIGNS = {
    "chosen": "Larger means that the rule chooses the head at more of the text rows behind an image.",
    "visual": "Larger means that text rows behind an image attend more to image patches.",
    "non_sink": "Larger means that less of the attention to image patches goes to visual sinks.",
}
_UNITS = {
    "chosen": "share of rows",
    "visual": "share of a row's attention",
    "non_sink": "share of a row's attention to patches",
}


class Looks(NamedTuple):
    """What rows of a block do with an image."""

    visual: Float[Tensor, "batch head row"]  # V
    on_sinks: Float[Tensor, "batch head row"]  # S
    about: Bool[Tensor, "batch row"]  # text behind an image
    chosen: Bool[Tensor, "batch head row"]
    receivers: Bool[Tensor, "batch 1 1 key"]  # patches that are no sinks


@dataclass(frozen=True)
class ImageCentric:
    """The rule, as a function from a block of rows to the keys that receive: patches that are no sinks, in the rows
    that are chosen. It keeps nothing between runs."""

    image: TokenIds
    sinks: Massive
    non_sink: float = 0.5
    floor: float = 0.2
    bias: float = 0.0  # added to V for each patch, in the second condition alone

    def __post_init__(self) -> None:
        for name in ("non_sink", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} was given; expected a share of attention, 0 to 1.")

    def __call__(self, block: Block) -> Bool[Tensor, "batch head row key"]:
        looks = self.looks(block, block.pattern)
        return looks.receivers & looks.chosen[..., None]

    def looks(self, block: Block, pattern: Float[Tensor, "batch head row key"]) -> Looks:
        """What the block's rows do, with this pattern; the run must have noted the sinks (`note_massive`)."""
        memory = block.clock.memory.setdefault((self, block.layer), {})
        image = keys_of(self.image, block, memory).expand(len(pattern), 1, 1, -1)
        sinks = keys_of(self.sinks, block, {}) & image
        visual, on_sinks = (torch.where(keys, pattern, 0).sum(-1) for keys in (image, sinks))
        # a static cache has keys behind the newest token
        patches = (image & (block.keys <= block.queries[-1])).sum(-1)
        about = _text_behind(image[:, 0, 0], block)
        few = on_sinks <= (1 - self.non_sink) * (visual + self.bias * patches)
        chosen = (visual >= self.floor) & (visual > 0) & few & about[:, None]
        return Looks(visual, on_sinks, about, chosen, image & ~sinks)


def _text_behind(image: Bool[Tensor, "batch key"], block: Block) -> Bool[Tensor, "batch row"]:
    """Rows that are no patch and have one before them; rows before every image are the system's."""
    own = block.queries - block.keys[0]
    return (image.cumsum(1) > 0)[:, own] & ~image[:, own] & block.real


def image_centric_heads(
    model: Model,
    samples: Samples,
    sinks: Massive,
    *,
    non_sink: float = 0.5,
    floor: float = 0.2,
    bias: float = 0.0,
    batch: int = 8,
) -> dict[str, HeadMap]:
    """How image-centric each head is, over (layer, head), as means over the text rows behind an image (2503.03321).

    - "chosen": the share of these rows in which the rule chooses the head.
    - "visual": V, the share of their attention that goes to image patches.
    - "non_sink": 1 - S / V, the share of V on patches that are no sinks, over the rows with V > 0; NaN without any.

    A head that sinks have captured (S near V) is rejected by the rule, though it is the one that loses most to them;
    "visual" and "non_sink" show it. The paper leaves out layers 0, 1 and the last, which are here with the numbers that
    the rule would give them. Rows are those of the main tower, after what an outer `model.edited(...)` does to them.

    Args:
        sinks: what `sink_dimensions(...).group()` gives.
        non_sink, floor, bias: the rule's bounds, shares of attention; see the head of this file.
        batch: how many samples of equal length run at a time.

    Returns:
        A HeadMap by name; `samples` are each sample's own numbers.

    Raises:
        ValueError: for a model that names no image token, no samples, bounds outside of 0 to 1, or samples without text
            behind an image.
    """
    rule = ImageCentric(image_tokens(model), sinks, non_sink, floor, bias)
    if not len(samples):
        raise ValueError("Image-centric heads are found on samples, and there are none; give one or more.")
    found = {name: np.full((len(samples), model.n_layers, model.n_heads), np.nan, np.float32) for name in _SIGNS}
    for indices, inputs in samples.batches(batch):
        tally = _Tally(rule, model, len(indices))
        _watch(model, inputs, rule, tally)
        for name, values in tally.means().items():
            found[name][indices] = values
    if np.isnan(found["visual"]).all():
        raise ValueError("No sample has text behind an image, so there are no rows to choose heads by.")
    bounds = {"non_sink": non_sink, "floor": floor, "bias": bias}
    about = {
        "analysis": "image_centric_heads",
        "sink_dimensions": [*sinks.dims],
        "sinks_above": sinks.above,
        **bounds,
        **samples_origin(model, samples),
    }
    return {
        name: HeadMap.from_samples(
            values,
            dims=("layer", "head"),
            name=f"image-centric heads: {name}",
            units=_UNITS[name],
            sign=_SIGNS[name],
            clusters=samples.clusters,
            provenance={**about, "statistic": name},
        )
        for name, values in found.items()
    }


@dataclass(eq=False)
class _Tally:
    """Sums over rows of one batch, [prompt, layer, head]."""

    rule: ImageCentric
    model: Model
    prompts: int
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (self.prompts, self.model.n_layers, self.model.n_heads)
        names = ("rows", "seeing", *_SIGNS)
        self.sums = {name: torch.zeros(shape, dtype=torch.float64) for name in names}

    def look(self, block: Block, pattern: Float[Tensor, "batch head row key"]) -> None:
        looks = self.rule.looks(block, pattern)
        about = looks.about[:, None]
        seeing = about & (looks.visual > 0)
        ratio = 1 - looks.on_sinks / looks.visual.where(seeing, 1)
        counted = {
            "rows": about.expand_as(seeing),
            "seeing": seeing,
            "chosen": looks.chosen,
            "visual": looks.visual.where(about, 0),
            "non_sink": ratio.where(seeing, 0),
        }
        for name, values in counted.items():
            self.sums[name][:, block.layer] += values.double().sum(-1).cpu()

    def means(self) -> dict[str, np.ndarray]:
        """NaN where there are no rows to take a mean over."""
        over = {"chosen": "rows", "visual": "rows", "non_sink": "seeing"}
        return {name: (self.sums[name] / self.sums[count]).float().numpy() for name, count in over.items()}


def _watch(model: Model, inputs: dict[str, Any], rule: ImageCentric, tally: _Tally) -> None:
    asked_by, layers = "The search for image-centric heads", range(model.n_layers)
    with ticking(model.hf) as clock:

        def note(resid: Tensor, where: Where) -> Tensor:
            note_massive(rule.sinks, where.layer(), resid, clock)
            return resid

        taps = [Tap(Site("resid_pre", layer), note, asked_by, observes=True) for layer in layers]
        watches = [Watch(Site("pattern", layer), tally.look, asked_by) for layer in layers]
        watched_run(model, inputs)([*taps, *watches])
