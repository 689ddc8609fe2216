"""The self-test at load: is this model really in our hands?

A neutral edit must leave the outputs as they are, a planted edit of one head must move them. A model that fails is
refused by name, with the reason; nobody should patch heads whose edits never reach the output.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlens.hooks.discover import Tower, tensors_of
from headlens.hooks.sites import Site
from headlens.hooks.spread import parameter_names, values_of
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap, Where


def output_of(hf: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """The first tensor of a forward pass: logits, or hidden states of a model without a head."""
    with torch.no_grad():
        return tensors_of(hf(**inputs).to_tuple())[0]


def check_finite(hf: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first broken weight, unless a plain forward gives finite numbers."""
    if torch.isfinite(output_of(hf, inputs)).all():
        return
    for name in parameter_names(hf):
        if not torch.isfinite(values_of(hf, name)).all():
            raise ValueError(
                f"{type(hf).__name__} is refused: its weight {name} holds NaN or infinity; get an intact copy."
            )
    raise ValueError(
        f"{type(hf).__name__} is refused: its output on a few tokens is NaN or infinite in {hf.dtype}; try float32."
    )


def check(hf: PreTrainedModel, towers: Mapping[str, Tower], inputs: Mapping[str, Any]) -> None:
    """Raise ValueError unless interception is faithful and live in every layer of these towers."""
    plain = output_of(hf, inputs)
    # bfloat16 keeps 8 bits: the two ways of adding up a row may differ in the last one at every layer
    tolerance = (1e-3 if plain.dtype in (torch.float32, torch.float64) else 0.1) * float(plain.abs().max())
    for tower in towers.values():
        sites = [Site("pattern", layer, tower.name) for layer in range(len(tower.layers))]
        with tapped(hf, towers, [Tap(site, _unchanged, "self-test") for site in sites]):
            neutral = output_of(hf, inputs)
        if float((neutral - plain).abs().max()) > tolerance:
            raise ValueError(
                f"{type(hf).__name__} is refused: recomputing the attention of its {tower.name} tower changes its "
                f"output by {float((neutral - plain).abs().max()):.2g}, so headlens would not be studying this model."
            )
        for site in ("pattern", "z"):
            if not _moves(hf, towers, tower, site, inputs, plain):
                raise ValueError(
                    f"{type(hf).__name__} is refused: silencing heads at {site} in its {tower.name} tower does not "
                    "change its output, so edits would be lost."
                )


def _moves(
    hf: PreTrainedModel,
    towers: Mapping[str, Tower],
    tower: Tower,
    site: str,
    inputs: Mapping[str, Any],
    plain: Tensor,
) -> bool:
    """Does silencing one head change the output? Some heads of a pruned model may be idle, so several are tried."""
    axis = 1 if site == "pattern" else 2
    for layer in range(len(tower.layers)):
        for head in range(tower.n_heads):

            def silence(tensor: Tensor, where: Where, head: int = head) -> Tensor:
                out = tensor.clone()
                out.select(axis, head).zero_()
                return out

            with tapped(hf, towers, [Tap(Site(site, layer, tower.name), silence, "self-test")]):
                edited = output_of(hf, inputs)
            if not torch.equal(edited, plain):
                return True
    return False


def _unchanged(tensor: Tensor, where: Where) -> Tensor:
    return tensor
