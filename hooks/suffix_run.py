"""Running the positions of a prompt from some point on, against the kept keys and values of what comes before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, Joining
from headlens.hooks.intercept import Attention, Listener, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.reading import Read, Reading
from headlens.hooks.shadow import shadowed
from headlens.hooks.sites import ATTENTION_SITES, Site
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap, Where


@dataclass(frozen=True, eq=False)
class SiteRun:
    """What prompts that agree with a base run before its start said from there on."""

    logits: Float[Tensor, "prompt row token"]
    kept: tuple[Tensor, ...]  # one site's activation of each layer: its axes, with the suffix as positions (or queries)


def run_from(model: Model, base: Base, tokens: Int[Tensor, "variant_prompt pos"], site: str, read: Read) -> SiteRun:
    """Run `tokens` from the base run's start on; the logits to be read, and each layer's activation at `site`.

    There may be several variants of each prompt, one whole set after the other. Runs of equal tokens give equal bits if
    they are equally many.
    """
    variants, unembedding = len(tokens) // len(base.tokens), cast(Any, model.hf.get_output_embeddings())
    shadows = {} if read.tokens is None else {unembedding: Reading(unembedding, read, variants)}
    kept: dict[int, Tensor] = {}
    layers = list(zip(model.layers, base.layers, strict=True))
    listeners: dict[nn.Module, Listener] = {}
    taps = []
    for at, (layer, of_base) in enumerate(layers):
        joining = Joining(of_base.call, variants, base.start, 0)
        listeners[layer.attention] = _Keeping(site, at, joining, kept) if site in ATTENTION_SITES else joining
        if site not in ATTENTION_SITES:
            taps.append(Tap(Site(site, at), partial(_keep, kept), f"The recording of {site}"))
    with tapped(model.hf, model.towers, taps):
        logits = run_suffix(model, tokens[:, base.start :], base.start, listeners, shadows, read.last)
    return SiteRun(logits, tuple(kept[at] for at in range(model.n_layers)))


def run_suffix(
    model: Model,
    ids: Int[Tensor, "row suffix"],
    start: int,
    listeners: Mapping[nn.Module, Listener],
    shadows: Mapping[nn.Module, Callable[..., Any]],
    last: int = 1,
) -> Float[Tensor, "row last token"]:
    """The model's own forward on the positions from `start` on; logits of the `last` ones."""
    positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    with torch.no_grad(), listening(model.hf), placed(listeners), shadowed(shadows):
        logits = model.hf(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=last).logits
    return logits[:, -last:]


def _keep(kept: dict[int, Tensor], tensor: Tensor, where: Where) -> Tensor:
    kept[where.layer()] = tensor
    return tensor


@dataclass(frozen=True, eq=False)
class _Keeping:
    """A layer's listener that keeps a site inside the attention, over the suffix as its rows."""

    site: str
    layer: int
    joining: Joining
    kept: dict[int, Tensor]

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        z, _ = self.joining(module, call)
        match self.site:
            case "z":
                self.kept[self.layer] = z
            case "rot_q":
                self.kept[self.layer] = call.query.transpose(1, 2)
            case "rot_k":
                self.kept[self.layer] = call.key.transpose(1, 2)
            case "v":
                self.kept[self.layer] = call.value.transpose(1, 2)
            case _:
                whole = self.joining.whole(call)
                self.kept[self.layer] = whole.scores() if self.site == "attn_scores" else whole.pattern()
        return z, None
