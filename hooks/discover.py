"""Find a model's parts by watching one small forward pass: attention layers, output projections, MLPs, residual stream.

No table per architecture: a part is recognised by the tensors that flow through it. The output projection is the
module that reads z; the MLP is the last module of a block that turns vectors into the block's second addition; the
middle of the residual stream is the block's input plus the attention's addition, if some later module reads that sum
(parallel blocks have none).
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from headlens.hooks.intercept import Attention, listening, placed
from headlens.hooks.sites import ATTENTION_SITES, MAIN
from headlens.hooks.spread import values_of


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of one attention layer. A part that the architecture does not have is None."""

    block: nn.Module
    attention: nn.Module
    output_projection: nn.Module
    mlp: nn.Module | None  # its output is what the block adds second (after a post-norm, where there is one)
    middle: nn.Module | None  # its output plus the block's input is the residual stream between attention and MLP

    @property
    def attention_addition(self) -> nn.Module:
        """The module whose output is what the attention adds to the residual stream (after a post-norm)."""
        return self.middle or self.output_projection

    def has(self, site: str, is_cross: bool = False) -> bool:
        """Does this layer have that site? Parallel blocks have no resid_mid; cross-attention has no residual sites."""
        if is_cross:
            return site in (*ATTENTION_SITES, "result", "attn_out")
        return not ((site == "resid_mid" and self.middle is None) or (site == "mlp_out" and self.mlp is None))

    def output_weights(self, n_heads: int) -> Float[Tensor, "head d_head d_model"]:
        """W_O per head: `z[head] @ W_O[head]`, summed over heads plus the bias, is the attention's output."""
        weight = values_of(self.output_projection)
        if isinstance(self.output_projection, nn.Linear):
            weight = weight.T
        return weight.unflatten(0, (n_heads, -1))


@dataclass(frozen=True, eq=False)
class Tower:
    """A stack of attention layers that share one width: the language model, a vision encoder, cross-attention ..."""

    name: str
    path: str
    layers: tuple[Layer, ...]
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    is_cross: bool = False
    is_causal: bool = True

    @property
    def reads_pictures(self) -> bool:
        """Whether its rows are patches, or queries about them, and not the tokens that a cache counts."""
        return self.name == "vision" or self.name.startswith("qformer")


@dataclass(eq=False)
class _Call:
    """One module call in the trace, in order of completion."""

    module: nn.Module
    name: str
    started: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(eq=False)
class _Seen:
    """What one attention module received and returned."""

    module: nn.Module
    call: Attention
    z: Tensor
    at: int


@dataclass(eq=False)
class Trace:
    """Everything one forward pass called."""

    names: Mapping[nn.Module, str]
    calls: list[_Call] = field(default_factory=list)
    attention: list[_Seen] = field(default_factory=list)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock


def tensors_of(value: Any) -> tuple[Tensor, ...]:
    """The tensors in a module's arguments or output, outermost first."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return tuple(tensor for item in value for tensor in tensors_of(item))
    return ()


@contextmanager
def _watched(hf: nn.Module, trace: Trace):
    """Hooks on every module that write the trace; all removed on exit."""
    starts: dict[nn.Module, list[int]] = {}

    def enter(module, args, kwargs):
        starts.setdefault(module, []).append(trace.tick())

    def leave(module, args, kwargs, output):
        began = starts[module].pop()
        trace.calls.append(_Call(module, trace.names[module], began, tensors_of((args, kwargs)), tensors_of(output)))

    handles = []
    try:
        for module in trace.names:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace_forward(hf: PreTrainedModel, inputs: Mapping[str, Any]) -> Trace:
    """Run `hf` once on `inputs` and note each module call and each attention call."""
    trace = Trace({module: name for name, module in hf.named_modules()})

    def listen(module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        z = call.z()
        trace.attention.append(_Seen(module, call, z, trace.tick()))
        return z, None

    with torch.no_grad(), listening(hf), placed(dict.fromkeys(trace.names, listen)), _watched(hf, trace):
        hf(**inputs)
    return trace


def find_towers(hf: PreTrainedModel, trace: Trace, prefix: str = "", part: str = MAIN) -> list[Tower]:
    """Group the traced attention layers by the module list they stand in and by their place inside a block.

    `prefix` is where `hf` itself stands inside a larger model, and `part` what it is there: the main one, an image
    encoder ("vision") or what asks it ("qformer"), whose cross-attention becomes "qformer_cross". The layers of a
    cross-attention are counted by themselves, where only every second block has one.
    """
    stacks: dict[tuple[str, str], list[tuple[int, str, _Seen]]] = {}
    for seen in trace.attention:
        name = trace.names[seen.module]
        parts = name.split(".")
        # the innermost list whose elements are blocks: T5 keeps sub-layers in a second list inside each block
        digits = [index for index, part in enumerate(parts) if part.isdigit()]
        if not digits:
            continue
        at = digits[0]
        stacks.setdefault((".".join(parts[:at]), ".".join(parts[at + 1 :])), []).append(
            (int(parts[at]), ".".join(parts[: at + 1]), seen)
        )
    return [_tower(hf, trace, path, prefix, part, found) for (path, _), found in stacks.items()]


def _tower(
    hf: PreTrainedModel, trace: Trace, path: str, prefix: str, part: str, found: list[tuple[int, str, _Seen]]
) -> Tower:
    modules = dict(hf.named_modules())
    layers = tuple(_layer(trace, modules[block], seen) for _, block, seen in sorted(found, key=lambda item: item[0]))
    first = found[0][2]
    query, key, value = first.call.query, first.call.key, first.call.value
    projection = next(c for c in trace.calls if c.module is layers[0].output_projection)
    is_cross = "cross" in trace.names[first.module].lower() or "encdec" in trace.names[first.module].lower()
    return Tower(
        name=_tower_name(hf, path, is_cross, part),
        path=f"{prefix}.{path}" if prefix else path,
        layers=layers,
        n_heads=query.shape[1],
        n_kv_heads=key.shape[1],
        d_head=value.shape[-1],
        d_model=projection.outputs[0].shape[-1],
        is_cross=is_cross,
        is_causal=not is_cross and _hides_the_future(first.call),
    )


def _tower_name(hf: PreTrainedModel, path: str, is_cross: bool, part: str) -> str:
    if part != MAIN:
        return f"{part}_cross" if is_cross else part
    if is_cross:
        return "cross"
    if getattr(hf.config, "is_encoder_decoder", False) and "decoder" not in path.split("."):
        return "encoder"
    return MAIN


def _layer(trace: Trace, block: nn.Module, seen: _Seen) -> Layer:
    """Recognise the parts of one block by the tensors that pass through them."""
    whole = next(c for c in trace.calls if c.module is block)
    inside = [c for c in trace.calls if c.started > whole.started and trace.calls.index(c) < trace.calls.index(whole)]
    flat = seen.z.flatten(2)
    projection = next(
        (c for c in inside if c.started > seen.at and c.inputs and _same(c.inputs[0], flat) and _has_matrix(c.module)),
        None,
    )
    if projection is None:
        raise ValueError(f"no module reads z after {trace.names[seen.module]}, so its heads cannot be told apart")
    middle = _middle(whole.inputs[0], projection, inside)
    mlp = _mlp(trace, projection, inside, whole)
    if middle and mlp:
        mlp = _addition(whole.inputs[0] + middle.outputs[0], mlp, inside, whole)
    return Layer(block, seen.module, projection.module, mlp and mlp.module, middle and middle.module)


def _middle(resid_pre: Tensor, projection: _Call, inside: list[_Call]) -> _Call | None:
    """The call whose output, added to the block's input, is read by a later module of the block."""
    later = [call for call in inside if call.started > projection.started]
    for candidate in [projection, *later]:
        if not candidate.outputs or candidate.outputs[0].shape != resid_pre.shape:
            continue
        middle = resid_pre + candidate.outputs[0]
        readers = (call for call in later if call.started > candidate.started)
        if any(call.inputs and _same(call.inputs[0], middle) for call in readers):
            return candidate
    return None


def _mlp(trace: Trace, projection: _Call, inside: list[_Call], whole: _Call) -> _Call | None:
    """The last outermost module with weight matrices beside the attention whose output is not yet the block's."""
    taken = {trace.names[seen.module] for seen in trace.attention} | {projection.name}
    width, size, out = projection.outputs[0].shape[-1], projection.outputs[0].numel(), whole.outputs[0]
    usable = [
        call
        for call in inside
        if call.outputs
        # OPT flattens batch and position before its MLP, so sizes are compared rather than shapes
        and (call.outputs[0].shape[-1], call.outputs[0].numel()) == (width, size)
        and call.outputs[0].data_ptr() != out.data_ptr()
        and _has_matrix(call.module)
        and not any(_nested(call.name, name) for name in taken)
    ]
    outermost = [c for c in usable if not any(c.name.startswith(other.name + ".") for other in usable)]
    return outermost[-1] if outermost else None


def _addition(middle: Tensor, mlp: _Call, inside: list[_Call], whole: _Call) -> _Call:
    """The MLP, or the norm behind it, if that norm's output is what the block adds (Gemma)."""
    for call in (mlp, *(call for call in inside if call.started > mlp.started)):
        if call.outputs and call.outputs[0].shape == middle.shape and _same(middle + call.outputs[0], whole.outputs[0]):
            return call
    return mlp


def _nested(a: str, b: str) -> bool:
    """Is one module the other, or inside the other?"""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def _hides_the_future(call: Attention) -> bool:
    allowed = call.allowed()
    return allowed is not None and not bool(allowed.triu(1).any())


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))
