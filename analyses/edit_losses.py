"""What edits cost on running text: the change of the next token's loss, window by window."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.fitness import check_windows
from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import text_origin
from headlens.hooks.apply import Edit
from headlens.hooks.model import Model

# Tokens of one forward, whose logits are all there at once.
_TOKENS = 1024


def edit_losses(
    model: Model,
    windows: Int[Tensor, "window pos"],
    edits: Mapping[str, Sequence[Edit]],
    *,
    name: str = "cost of edits",
    progress: bool = True,
) -> HeadMap:
    """How much more the model loses on text under each of these sets of edits than without any.

    Returns:
        A HeadMap of dims (metric,), one entry per name in `edits`: nats per predicted token, the mean over windows,
        which are its samples. Positive: the edits make text less likely. Windows are paired, so the intervals are of
        the change itself.

    Raises:
        ValueError: for a model that does not predict the next token, windows of a single token or of more tokens than
            the model has positions for, or no edits.
    """
    check_windows(model, windows)
    if not edits:
        raise ValueError("No edits were given; expected {name: [edit, ...], ...}.")
    columns = []
    for label in tqdm([None, *edits], unit=" runs", desc=name, disable=not progress):
        columns.append(losses(model, windows, () if label is None else edits[label]).numpy())
    return HeadMap.from_samples(
        np.stack(columns[1:], 1) - columns[0][:, None],
        dims=("metric",),
        coords={"metric": [*edits]},
        name=name,
        units="next-token loss, nats per token, above the model's own",
        sign="Positive means that the text becomes less likely.",
        provenance={**text_origin(model, windows), "analysis": "edit_losses", "loss": float(columns[0].mean())},
    )


def losses(model: Model, windows: Int[Tensor, "window pos"], edits: Sequence[Edit] = ()) -> Float[Tensor, " window"]:
    """The mean next-token loss of each window (nats per token) under these edits."""
    found, size = [], max(1, _TOKENS // windows.shape[1])
    with torch.no_grad(), model.edited(*edits) if edits else nullcontext():
        for part in windows.to(model.device).split(size):
            found.append(token_losses(model(part), part).mean(1).cpu())
    return torch.cat(found)


def token_losses(
    logits: Float[Tensor, "window pos vocabulary"], tokens: Int[Tensor, "window pos"]
) -> Float[Tensor, "window pos-1"]:
    """The loss of each token but the first (nats)."""
    ahead = logits[:, :-1].float()
    return ahead.logsumexp(-1) - ahead.gather(-1, tokens[:, 1:, None])[..., 0]
