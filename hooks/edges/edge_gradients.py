"""What patching every edge would do, to first order: senders' differences times gradients by receivers' inputs.

One forward keeps its graph. One backward through it gives the gradients by every query, key, value and MLP output; each
is then pulled back to the residual stream that its receiver reads, head by head, and no further, so that it is the
gradient by the receiver's own input alone. Products with all senders are one matrix product per layer: no edge is an
object, and no edge has a pass of its own (edge attribution patching, 2310.10348).
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, joined
from headlens.hooks.intercept import Attention, Listener, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.readout import rounding
from headlens.hooks.shadow import shadowed
from headlens.hooks.sites import Site
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap, Where
from headlens.hooks.wiring import Wiring

# What the attention function receives, in the order of a layer's receivers.
_READ = ("query", "key", "value")


@dataclass(frozen=True, eq=False)
class Apart:
    """What every sender writes in the other run, less what it writes in the base run, from the base run's start on.

    Heads are in front of a post-norm, where there is one. `logits` are those of the base run and of the other, at the
    last position.
    """

    written: Float[Tensor, "sender prompt suffix d_model"]
    logits: tuple[Float[Tensor, "prompt vocabulary"], Float[Tensor, "prompt vocabulary"]]


@dataclass(frozen=True, eq=False)
class _Run:
    """A run of the suffix: the tensors on its way, by site and layer, as they stand in its graph."""

    kept: dict[str, dict[int, Tensor]]
    logits: Float[Tensor, "row vocabulary"]

    def at(self, site: str, layer: int) -> Tensor:
        return self.kept[site][layer]


@torch.no_grad()
def written_apart(model: Model, wiring: Wiring, base: Base, other: Int[Tensor, "prompt pos"]) -> Apart:
    """Run both sides of the pairs and take their senders apart.

    `other` agrees with the base run's tokens before its start. ValueError for a model whose residual stream is not the
    sum of embedding, attention and MLPs, or whose attention does more than project its heads and norm their sum.
    """
    run = _run(model, base, torch.cat([_embedded(model, base, tokens) for tokens in (base.tokens, other)]))
    _check_sums(model, run)
    dtype = torch.promote_types(model.dtype, torch.float32)
    start = run.at("resid_pre", 0)
    written = start.new_empty((len(wiring.senders), len(other), *start.shape[1:]), dtype=dtype)
    written[0] = _difference(start)
    for at, (layer, (first, after)) in enumerate(zip(model.layers, _places(wiring), strict=True)):
        weights = layer.output_weights(wiring.n_heads).to(dtype)
        heads = torch.einsum("bphd,hdm->hbpm", _difference(run.at("z", at)).to(dtype), weights)
        written[first : first + wiring.n_heads] = heads
        if after > first + wiring.n_heads:
            written[after - 1] = _difference(run.at("mlp_out", at))
    of_base, of_other = run.logits.chunk(2)
    return Apart(written, (of_base, of_other))


def edge_products(
    model: Model,
    wiring: Wiring,
    base: Base,
    other: Int[Tensor, "prompt pos"],
    apart: Apart,
    share: float,
    metric: Callable[[Float[Tensor, "prompt vocabulary"]], Float[Tensor, " prompt"]],
) -> Float[Tensor, "sender receiver"]:
    """Each edge's first-order change of the metric, summed over prompts and positions; 0 where there is no edge.

    Gradients are those of a run whose embeddings lie `share` of the way from the base run to the other. `metric` reads
    the logits at the last position. Behind heads, a post-norm is linearised at the same run.
    """
    with torch.no_grad():
        mixed = torch.lerp(_embedded(model, base, base.tokens), _embedded(model, base, other), share)
    with torch.enable_grad():
        run = _run(model, base, mixed.requires_grad_())
        said = metric(run.logits).sum()
    written, final = _through_post_norms(model, wiring, run, apart.written), run.at("resid_post", model.n_layers - 1)
    places = [(site, at) for site in (*_READ, "mlp_out") for at in run.kept[site]]
    asked = [run.at(*place) for place in places]
    *found, by_final = torch.autograd.grad(said, [*asked, final], retain_graph=True)
    gradients = dict(zip(places, found, strict=True))
    readers = torch.as_tensor(wiring.possible).sum(0).tolist()
    products = written.new_zeros(len(wiring.senders), len(wiring.receivers))
    column = 0

    def add(gradient: Float[Tensor, "own prompt suffix d_model"]) -> None:
        # a receiver reads all senders up to some point of the order in which they compute
        nonlocal column
        senders, end = readers[column], column + len(gradient)
        products[:senders, column:end] = written[:senders].flatten(1) @ gradient.to(written).flatten(1).T
        column = end

    for at, mlp in enumerate(wiring.mlps):
        stream = run.at("resid_pre", at)
        add(torch.cat([_by_head(run.at(site, at), gradients[site, at], stream) for site in _READ]))
        if mlp != "none":
            # the block's input being held, the stream between attention and MLP moves as the attention's addition does
            reads = run.at("attn_out", at) if mlp == "after" else stream
            (own,) = torch.autograd.grad(run.at("mlp_out", at), reads, gradients["mlp_out", at], retain_graph=True)
            add(own[None])
    add(by_final[None])
    return products


def _by_head(
    tensor: Float[Tensor, "prompt head suffix d_head"],
    gradient: Float[Tensor, "prompt head suffix d_head"],
    stream: Float[Tensor, "prompt suffix d_model"],
) -> Float[Tensor, "head prompt suffix d_model"]:
    """The gradient by the stream, through one head of a query, key or value at a time."""
    n_heads = tensor.shape[1]
    heads = torch.arange(n_heads, device=tensor.device)
    alone = gradient.new_zeros(n_heads, *gradient.shape)
    alone[heads, :, heads] = gradient.transpose(0, 1)
    (found,) = torch.autograd.grad(tensor, stream, alone, is_grads_batched=True, retain_graph=True)
    return found


def _run(model: Model, base: Base, embedded: Float[Tensor, "row suffix d_embedding"]) -> _Run:
    """The model's own forward from the base run's start on, keeping what senders write and receivers read."""
    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    copies, final = len(embedded) // len(base.tokens), model.n_layers - 1

    def keep(tensor: Tensor, where: Where) -> Tensor:
        kept[where.site.name][where.layer()] = tensor
        return tensor

    def listener(at: int, of_base: Attention) -> Listener:
        def listen(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
            for name in _READ:
                kept[name][at] = getattr(call, name)
            kept["z"][at] = joined(of_base, call, copies, base.start, 0).z()
            return kept["z"][at], None

        return listen

    sites = [Site(name, at) for at in range(model.n_layers) for name in ("resid_pre", "attn_out", "mlp_out")]
    sites = [site for site in sites if model.layers[site.layer].has(site.name)]
    taps = [Tap(site, keep, "The gradient") for site in (*sites, Site("resid_post", final))]
    listeners = {
        layer.attention: listener(at, of_base.call)
        for at, (layer, of_base) in enumerate(zip(model.layers, base.layers, strict=True))
    }
    embedding: Any = model.hf.get_input_embeddings()
    ids = base.tokens[:, base.start :].repeat(copies, 1)
    positions = torch.arange(base.start, base.tokens.shape[1], device=ids.device)[None]
    with ExitStack() as stack:
        stack.enter_context(tapped(model.hf, model.towers, taps))
        stack.enter_context(listening(model.hf))
        stack.enter_context(placed(listeners))
        stack.enter_context(shadowed({embedding: lambda *_, **__: embedded}))
        output = model.hf(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1)
    return _Run(kept, output.logits[:, -1])


def _through_post_norms(model: Model, wiring: Wiring, run: _Run, written: Tensor) -> Tensor:
    """What heads write, behind the post-norm of their layer, which is linearised at `run`."""
    seen = written
    for at, (layer, (first, _)) in enumerate(zip(model.layers, _places(wiring), strict=True)):
        norm, own = layer.attention_addition, slice(first, first + wiring.n_heads)
        if norm is layer.output_projection:
            continue
        if seen is written:
            seen = written.clone()
        with torch.no_grad():
            projected = layer.output_projection(run.at("z", at).flatten(2))
        seen[own] = _linearised(norm, projected, written[own].to(projected)).to(written)
    return seen


def _linearised(
    module: nn.Module, at: Float[Tensor, "prompt suffix d_model"], toward: Float[Tensor, "head prompt suffix d_model"]
) -> Float[Tensor, "head prompt suffix d_model"]:
    """How a module's output moves, to first order, as its input `at` moves along each of several ways."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        output = module(at)
        # the gradient is linear in its weights, and what it makes of them is the transpose of what is wanted
        weights = torch.zeros_like(output, requires_grad=True)
        (pulled_back,) = torch.autograd.grad(output, at, weights, create_graph=True)
    return torch.autograd.grad(pulled_back, weights, toward, is_grads_batched=True)[0]


def _check_sums(model: Model, run: _Run) -> None:
    """ValueError unless the stream is the sum of its senders, and each attention the sum of its heads."""
    total, largest = run.at("resid_pre", 0).clone(), 0.0
    for at, layer in enumerate(model.layers):
        added, said = run.at("attn_out", at), layer.output_projection(run.at("z", at).flatten(2))
        if layer.attention_addition is not layer.output_projection:
            said = layer.attention_addition(said)
        if float((said - added).abs().max()) > rounding(model.dtype) * float(added.abs().max()):
            raise ValueError(
                f"{type(layer.attention).__name__} does more with its heads' outputs than project them and norm their "
                "sum, so no edge can be told from a head."
            )
        for addition in (added, run.kept["mlp_out"].get(at)):
            total = total if addition is None else total + addition.to(total)
            largest = max(largest, float(total.abs().max()))
    final = run.at("resid_post", model.n_layers - 1)
    if float((total.to(final) - final).abs().max()) > rounding(model.dtype) * largest:
        raise ValueError(
            f"The residual stream of {model.name!r} is not the sum of its embedding, attention and MLPs: "
            f"{type(model.layers[-1].block).__name__} does more than add them up, so it has no edges."
        )


def _places(wiring: Wiring) -> list[tuple[int, int]]:
    """For each layer, its first sender's place and the place behind its last one."""
    places, at = [], 1
    for mlp in wiring.mlps:
        end = at + wiring.n_heads + (mlp != "none")
        places.append((at, end))
        at = end
    return places


def _embedded(model: Model, base: Base, tokens: Int[Tensor, "prompt pos"]) -> Tensor:
    embedding: Any = model.hf.get_input_embeddings()
    return embedding(tokens[:, base.start :])


def _difference(tensor: Tensor) -> Tensor:
    """The second half of the rows, less the first."""
    before, across = tensor.chunk(2)
    return across - before
