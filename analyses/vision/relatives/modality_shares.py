"""How much attention stays within a modality and how much crosses over (MODA's diagnostic, 2507.04635)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.watched_run import watched_run
from headlens.hooks.attention_taps import Watch
from headlens.hooks.group_masks import keys_of
from headlens.hooks.groups import TokenIds
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Site

MODALITIES: tuple[str, ...] = ("text", "image")
PAIRS = tuple((row, key) for row in MODALITIES for key in MODALITIES)


def modality_shares(model: Model, samples: Samples, *, forced: bool = False, batch: int = 8) -> dict[str, HeadMap]:
    """Self- and cross-modal attention of every head of the main tower, over (layer, head) (2507.04635).

    - "text_to_text", "text_to_image", "image_to_text", "image_to_image": of the attention of rows of the first kind,
      the share that goes to keys of the second; each row counts alike. The two of a row add up to 1 (to less in models
      with learned sinks).
    - the same names with "_even": the share divided by what even attention to all visible keys would give. 1 is even,
      and larger means that keys of that kind are sought out.

    Under a causal mask rows can only look back: where the picture comes first its rows see no text at all, and text in
    front of a picture sees no picture. Such a share is the mask's doing, so rows that do not see both kinds are left
    out, which leaves NaN where none do; `forced` counts them too. Even among the rest a token sees more of what stands
    before it, which is what "_even" takes away. Text is all that is no image token, the first token and special ones
    too, so that a sink on the first token counts as attention to text.

    These are shares of rows. Where all four are wanted as parts of one whole, multiply by each kind's share of the
    rows. The paper reports self against cross by layer; the mean over heads is that. MODA itself is not in here.

    Args:
        model: a vision-language model whose picture stands among its tokens.
        samples: prompts with pictures; a prompt without any has no image rows, and only forced text rows.
        forced: count rows too that see one kind alone.
        batch: how many samples of equal length run at a time.

    Returns:
        A HeadMap by name, the mean over samples; `samples` are each sample's own numbers.

    Raises:
        ValueError: for a model that names no image token, or no samples.
    """
    image = image_tokens(model)
    if not len(samples):
        raise ValueError("Shares of attention are means over samples, and there are none; give one or more.")
    names = [f"{row}_to_{key}{end}" for row, key in PAIRS for end in ("", "_even")]
    found = {name: np.full((len(samples), model.n_layers, model.n_heads), np.nan, np.float32) for name in names}
    for indices, inputs in samples.batches(batch):
        tally = _Tally(image, forced, torch.zeros(2, 4, len(indices), model.n_layers, model.n_heads).double())
        sites = [Site("pattern", layer) for layer in range(model.n_layers)]
        watched_run(model, inputs)([Watch(site, tally.look, "The reading of modality shares") for site in sites])
        means = (tally.sums / tally.rows[..., None]).float().numpy()
        for pair, (row, key) in enumerate(PAIRS):
            found[f"{row}_to_{key}"][indices] = means[0, pair]
            found[f"{row}_to_{key}_even"][indices] = means[1, pair]
    about = {"analysis": "modality_shares", "source": "2507.04635", "forced": forced, **samples_origin(model, samples)}
    return {name: _map(name, values, samples.clusters, about) for name, values in found.items()}


@dataclass(eq=False)
class _Tally:
    """Sums over rows of one batch: shares, and their ratio to even attention."""

    image: TokenIds
    forced: bool
    sums: Float[Tensor, "2 pair prompt layer head"]
    rows: Float[Tensor, "2 pair prompt layer"] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = torch.zeros(self.sums.shape[:-1], dtype=torch.float64)

    def look(self, block: Block, pattern: Float[Tensor, "batch head row key"]) -> None:
        ours = keys_of(self.image, block, block.clock.memory.setdefault((self, block.layer), {}))
        image = ours.expand(len(pattern), 1, 1, -1)
        # heads of a layer share one mask
        visible = block.visible[:, :1]
        kinds = dict(zip(MODALITIES, (~image, image), strict=True))
        seen = {kind: (visible & keys).sum(-1)[:, 0] for kind, keys in kinds.items()}
        both = (seen["text"] > 0) & (seen["image"] > 0)
        counted = block.real & (torch.ones_like(both) if self.forced else both)
        own = image[:, 0, 0, block.queries - block.keys[0]]
        for pair, (row, key) in enumerate(PAIRS):
            rows = counted & (own if row == "image" else ~own)
            share = torch.where(kinds[key], pattern, 0).sum(-1).double()
            even = (seen[key] / (seen["text"] + seen["image"]).clamp(min=1)).double()[:, None]
            self._add(0, pair, block.layer, share, rows)
            # no share of what cannot be seen
            self._add(1, pair, block.layer, share / even.where(even > 0, 1), rows & (seen[key] > 0))

    def _add(self, which: int, pair: int, layer: int, values: Tensor, rows: Tensor) -> None:
        self.sums[which, pair, :, layer] += values.where(rows[:, None], 0).sum(-1).cpu()
        self.rows[which, pair, :, layer] += rows.sum(-1).cpu()


def _map(name: str, values: np.ndarray, clusters: tuple[str, ...], about: dict) -> HeadMap:
    row, _, key = name.removesuffix("_even").partition("_to_")
    even = name.endswith("_even")
    return HeadMap.from_samples(
        values,
        dims=("layer", "head"),
        name=f"attention of {row} to {key}{', relative to even attention' if even else ''}",
        units="times even attention" if even else "share of a row's attention",
        sign=f"Larger means that rows of {row} attend more to {key}.",
        clusters=clusters,
        provenance={**about, "statistic": name},
    )
