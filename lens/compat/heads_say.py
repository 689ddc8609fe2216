"""What heads say when activations inside their attention are exchanged: one whole forward answers for every layer.

Heads do not see each other within a layer, nor query positions each other. So all heads of all layers are patched in
one forward, in which each layer reads the base run's residual stream; a cell then takes what its own heads say. The
forward is TransformerLens's own, whatever stands between its hook and the output: a rotation, a norm of queries, a soft
cap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from headlens.compat.runner import Change, Runner


@dataclass(frozen=True, eq=False)
class BaseRun:
    """The unpatched run: each asked layer's activation at the site, residual stream before it, and heads' output."""

    logits: Tensor
    site: dict[int, Tensor]
    resid_pre: dict[int, Tensor]
    z: dict[int, Tensor]


def base_run(
    runner: Runner, tokens: Int[Tensor, "batch pos"], activation: str, layers: list[int], inside: bool
) -> BaseRun:
    """One plain run; without `inside` the site alone is kept."""
    kinds = (activation, "resid_pre", "z") if inside else (activation,)
    names = {(kind, layer): runner.hook_name(kind, layer) for kind in kinds for layer in layers}
    logits, kept = runner.record(tokens, [*dict.fromkeys(names.values())])
    found = {kind: {layer: kept[names[kind, layer]] for layer in layers} for kind in kinds}
    return BaseRun(logits, found[activation], found.get("resid_pre", {}), found.get("z", {}))


def heads_say(
    runner: Runner,
    tokens: Int[Tensor, "batch pos"],
    activation: str,
    source: Mapping[int, Tensor],
    base: BaseRun,
    alone: int | None,
    by_key: bool,
) -> dict[int, Tensor]:
    """Each layer's z [batch, pos, head, d_head] with `source` in place of the activation.

    Of all of it, or of position `alone` (with `by_key`: of that key of a pattern).
    """
    one = slice(None) if alone is None else alone
    at = (..., one) if by_key else (slice(None), one)

    def standing(layer: int) -> Change:
        return lambda resid: base.resid_pre[layer].clone()

    def exchanging(layer: int) -> Change:
        def exchange(own: Tensor) -> Tensor:
            new = own.clone()
            new[at] = source[layer][at]
            return new

        return exchange

    changes: dict[str, Change] = {}
    for layer in source:
        changes[runner.hook_name("resid_pre", layer)] = standing(layer)
        changes[runner.hook_name(activation, layer)] = exchanging(layer)
    names = {layer: runner.hook_name("z", layer) for layer in source}
    _, kept = runner.record(tokens, [*names.values()], changes)
    return {layer: kept[name] for layer, name in names.items()}
