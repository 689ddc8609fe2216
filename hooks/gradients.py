"""Gradients of what the logits say, by every layer's activation at one site, in few backward passes.

The inputs may lie between two runs: token embeddings are mixed, `share` of the way from the base run to the other, as
integrated gradients over inputs need it (2403.17806). Positions before the two runs differ are shared and not run.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headlens.hooks.base_run import Base, joined
from headlens.hooks.intercept import Attention, Listener, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.shadow import shadowed
from headlens.hooks.sites import ATTENTION_SITES, Site
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap
from headlens.kernels.reference import attention_pattern, weighted_values

_INPUTS = {"rot_q": "query", "rot_k": "key", "v": "value"}


def site_gradients(
    model: Model,
    base: Base,
    other: Tensor,
    site: str,
    shares: Sequence[float],
    metric: Callable[[Float[Tensor, "share prompt vocabulary"]], Float[Tensor, "share prompt"]],
) -> list[Tensor]:
    """For each layer, the gradient of every prompt's metric by its activation at `site`, averaged over `shares`.

    Each has the site's axes, over the positions (or queries) from the base run's start on. `other` are the tokens of
    the other run [prompt pos]; `metric` reads the logits at the last position.
    """
    seen: dict[int, Tensor] = {}

    def keep(layer: int, tensor: Tensor) -> Tensor:
        seen[layer] = tensor
        return tensor

    # the block's input being fixed, the stream between attention and MLP moves as the attention's addition does
    tapped_site = "attn_out" if site == "resid_mid" else site
    outside = tapped_site not in ATTENTION_SITES
    tap = lambda tensor, where: keep(where.layer(), tensor)  # noqa: E731
    taps = [Tap(Site(tapped_site, at), tap, "The gradient") for at in range(model.n_layers)] if outside else []
    listeners = {
        layer.attention: _keeping(site, at, kept.call, len(shares), base.start, keep)
        for at, (layer, kept) in enumerate(zip(model.layers, base.layers, strict=True))
    }
    embedding: Any = model.hf.get_input_embeddings()
    ids = base.tokens[:, base.start :]
    positions = torch.arange(base.start, base.tokens.shape[1], device=ids.device)[None]
    with torch.no_grad():
        start, end = (embedding(tokens[:, base.start :]) for tokens in (base.tokens, other))
        mixed = torch.cat([torch.lerp(start, end, share) for share in shares])
    mixed.requires_grad_()
    with (
        torch.enable_grad(),
        tapped(model.hf, model.towers, taps),
        listening(model.hf),
        placed(listeners),
        shadowed({embedding: lambda *_, **__: mixed}),
    ):
        output = model.hf(
            input_ids=ids.repeat(len(shares), 1), position_ids=positions, use_cache=False, logits_to_keep=1
        )
        measured = metric(output.logits[:, -1].unflatten(0, (len(shares), -1)))
        gradients = torch.autograd.grad(measured.sum(), [seen[at] for at in range(model.n_layers)])
    return [gradient.unflatten(0, (len(shares), -1)).mean(0) for gradient in gradients]


def _keeping(
    site: str, layer: int, kept: Attention, copies: int, start: int, keep: Callable[[int, Tensor], Tensor]
) -> Listener:
    """The layer's attention on the suffix, of which one tensor is kept on its way."""

    def listen(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
        if site in _INPUTS:
            name = _INPUTS[site]
            # kept in the axes of the site, and used from there
            tensor = keep(layer, getattr(call, name).transpose(1, 2))
            call = replace(call, **{name: tensor.transpose(1, 2)})
        whole = joined(kept, call, copies, start, 0)
        if site == "attn_scores":
            return weighted_values(attention_pattern(keep(layer, whole.scores()), call.sinks), whole.value), None
        if site == "pattern":
            return weighted_values(keep(layer, whole.pattern()), whole.value), None
        return keep(layer, whole.z()) if site == "z" else whole.z(), None

    return listen
