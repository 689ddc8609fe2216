"""What receivers hear: the query, key or value of some heads at some positions, for many cells at once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import BaseLayer, Joining
from headlens.hooks.discover import Layer
from headlens.hooks.intercept import Attention, Listener
from headlens.hooks.output import first_tensor
from headlens.hooks.wiring import Node

_INPUTS = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True, eq=False)
class Heard:
    """One layer's receivers, and what each of them is in every cell: by kind, [cell prompt head column d]."""

    heads: dict[str, list[int]]
    prompts: int
    values: dict[str, Float[Tensor, "cell prompt head column d"]] = field(default_factory=dict)

    @classmethod
    def by(cls, receivers: Sequence[Node], prompts: int) -> "Heard":
        """Of one layer's receivers, before anything is heard."""
        heads: dict[str, list[int]] = defaultdict(list)
        for node in receivers:
            heads[node.kind].append(node.head)
        return cls(dict(heads), prompts)

    def hear(self, call: Attention) -> None:
        """Keep the receivers' part of a call that has nothing but the columns as its positions."""
        for kind, heads in self.heads.items():
            self.values[kind] = getattr(call, _INPUTS[kind])[:, heads].unflatten(0, (-1, self.prompts))

    def of_cells(self, cells: slice) -> "Heard":
        return replace(self, values={kind: values[cells] for kind, values in self.values.items()})

    def put_into(self, call: Attention, columns: Int[Tensor, " column"]) -> Attention:
        """The cells' call with the receivers' part of it replaced at `columns` of its positions."""
        changed = {}
        for kind, values in self.values.items():
            tensor = getattr(call, _INPUTS[kind]).clone()
            heads = torch.tensor(self.heads[kind], device=tensor.device)[:, None]
            tensor[:, heads, columns] = values.flatten(0, 1)
            changed[_INPUTS[kind]] = tensor
        return replace(call, **changed)

    def speaking(self, n_heads: int, n_kv_heads: int) -> list[int]:
        """The query heads that say something else where these receive: those that read a key or value, too."""
        group, found = n_heads // n_kv_heads, set(self.heads.get("q", []))
        for kind in ("k", "v"):
            found |= {head * group + at for head in self.heads.get(kind, []) for at in range(group)}
        return sorted(found)


@dataclass(frozen=True, eq=False)
class Receiving:
    """A layer's listener in whose cells the receivers are replaced on the way."""

    heard: Heard
    columns: Int[Tensor, " column"]
    listener: Listener

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        return self.listener(module, self.heard.put_into(call, self.columns))


def attention_of(
    layer: Layer, kept: BaseLayer, heard: Heard, columns: Int[Tensor, " column"], start: int, skip: int
) -> Float[Tensor, "cell prompt suffix d_model"]:
    """What a layer's attention returns, from `start` on, where only its receivers are other than in the base run.

    `columns` count from `start`, which lies `skip` behind the start of the kept run.
    """
    cells, call = len(next(iter(heard.values.values()))), kept.call
    base = call.with_inputs(call.query[:, :, skip:], call.key[:, :, start:], call.value[:, :, start:])
    parts = [
        torch.cat([own, changed])
        for own, changed in zip(_inputs(base), _inputs(heard.put_into(_repeated(base, cells), columns)), strict=True)
    ]
    # the base run beside its cells: what is not changed cancels
    z, _ = Joining(call, cells + 1, start, skip)(layer.attention, base.with_inputs(*parts))
    z = z.unflatten(0, (cells + 1, -1))
    attended, n_heads = first_tensor(kept.attention_out)[:, skip:], z.shape[3]
    heads = heard.speaking(n_heads, call.key.shape[1])
    if len(heads) == n_heads:
        # not a sum of differences, whose rounding a norm behind a silenced attention would blow up
        return layer.output_projection(z[1:].flatten(3).to(attended.dtype))
    difference = (z[1:, ..., heads, :] - z[:1, ..., heads, :]).flatten(3)
    weights = layer.output_weights(n_heads)[heads].flatten(0, 1)
    return attended + (difference @ weights.to(difference.dtype)).to(attended.dtype)


def _inputs(call: Attention) -> tuple[Tensor, Tensor, Tensor]:
    return call.query, call.key, call.value


def _repeated(call: Attention, cells: int) -> Attention:
    return call.with_inputs(*(each.repeat(cells, 1, 1, 1) for each in _inputs(call)))
