"""Path patching by plain hooks on transformers' eager models: two whole forwards per sender, one prompt at a time."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headlens.analyses.task import Task
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class Block:
    """Where a head's z goes in, what the MLP is, and the view of each projection's output as heads, by component."""

    projection: nn.Module
    mlp: nn.Module
    inputs: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]


def _separate(n_heads: int, n_kv_heads: int) -> Callable[[Any], Block]:
    def block(layer: Any) -> Block:
        own, kv = layer.self_attn, lambda out: out.unflatten(-1, (n_kv_heads, -1))
        inputs = {"q": (own.q_proj, lambda out: out.unflatten(-1, (n_heads, -1))), "k": (own.k_proj, kv)}
        return Block(own.o_proj, layer.mlp, {**inputs, "v": (own.v_proj, kv)})

    return block


def _gpt2(n_heads: int, _: int) -> Callable[[Any], Block]:
    def part(at: int) -> Callable[[Tensor], Tensor]:
        return lambda out: out.unflatten(-1, (3, n_heads, -1))[:, :, at]

    return lambda layer: Block(
        layer.attn.c_proj, layer.mlp, {kind: (layer.attn.c_attn, part(at)) for at, kind in enumerate("qkv")}
    )


def _neox(n_heads: int, _: int) -> Callable[[Any], Block]:
    def part(at: int) -> Callable[[Tensor], Tensor]:
        return lambda out: out.unflatten(-1, (n_heads, 3, -1))[:, :, :, at]

    return lambda layer: Block(
        layer.attention.dense,
        layer.mlp,
        {kind: (layer.attention.query_key_value, part(at)) for at, kind in enumerate("qkv")},
    )


_BLOCKS: dict[str, tuple[Callable[[Any], Any], Callable[[int, int], Callable[[Any], Block]]]] = {
    "gpt2": (lambda hf: hf.transformer.h, _gpt2),
    "gpt_neox": (lambda hf: hf.gpt_neox.layers, _neox),
    "llama": (lambda hf: hf.model.layers, _separate),
    "gemma2": (lambda hf: hf.model.layers, _separate),
}


@dataclass(frozen=True, eq=False)
class SlowPaths:
    """A copy of the model in eager attention, and its blocks."""

    hf: Any
    blocks: list[Block]
    n_heads: int
    group: int

    @classmethod
    def of(cls, model: Model, architecture: str) -> "SlowPaths":
        hf: Any = copy.deepcopy(model.hf)
        hf.set_attn_implementation("eager")
        find, make = _BLOCKS[architecture]
        make_one = make(model.n_heads, model.n_kv_heads)
        blocks = [make_one(layer) for layer in find(hf)]
        return cls(hf, blocks, model.n_heads, model.n_heads // model.n_kv_heads)

    def effect(
        self,
        task: Task,
        sender: tuple[int, int],
        receivers: Any,
        positions: list[str] | None,
        mlps: str,
        direction: str,
    ) -> list[float]:
        """The effect of one sender on each prompt, in logits: answer minus foil."""
        return [self._of_prompt(task, row, sender, receivers, positions, mlps, direction) for row in range(len(task))]

    def _of_prompt(self, task, row, sender, receivers, positions, mlps, direction) -> float:
        end = int(task.positions["END"][row])
        base, other = (tokens[row : row + 1, : end + 1] for tokens in (task.clean_tokens, task.corrupted_tokens))
        if direction == "denoising":
            base, other = other, base
        at = list(range(end + 1)) if positions is None else [int(task.positions[name][row]) for name in positions]
        kept, kept_mlps = self._recorded(base)
        source, _ = self._recorded(other)
        layer, head = sender
        sent = kept[layer].clone()
        heads = sent.unflatten(-1, (self.n_heads, -1))
        heads[:, at, head] = source[layer].unflatten(-1, (self.n_heads, -1))[:, at, head]
        hooks = [self._reading(layer, sent)]
        hooks += [self._reading(later, kept[later]) for later in range(layer + 1, len(self.blocks))]
        if mlps == "frozen":
            hooks += [self._answering(later, kept_mlps[later]) for later in range(layer, len(self.blocks))]
        told: dict[tuple[int, str], Tensor] = {}
        wanted = [] if receivers == "logits" else [(*_numbers(label), kind) for label, kind in receivers]
        hooks += [self._told(told, receiving, kind) for receiving, kind in {(each[0], each[2]) for each in wanted}]
        logits = self._run(base, hooks)
        if wanted:
            put = [
                self._put(told[receiving, kind], receiving, number if kind == "q" else number // self.group, kind, at)
                for receiving, number, kind in wanted
                if receiving > layer
            ]
            logits = self._run(base, put)
        unpatched = self._run(base, [])
        moved = [float(each[task.answers[row]] - each[task.foils[row]]) for each in (logits, unpatched)]
        return (moved[0] - moved[1]) * (1 if direction == "denoising" else -1)

    def _run(self, tokens: Tensor, hooks: list[Callable[[], Any]]) -> Tensor:
        with torch.no_grad(), _registered(hooks):
            return self.hf(input_ids=tokens, use_cache=False).logits[0, -1]

    def _recorded(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What each output projection reads, and each MLP answers."""
        read: list[Tensor] = []
        answered: list[Tensor] = []
        hooks = []
        for block in self.blocks:
            keep_read = lambda module, args: read.append(args[0].clone())  # noqa: E731
            keep_answer = lambda module, args, out: answered.append(out.clone())  # noqa: E731
            hooks.append(lambda block=block, keep=keep_read: block.projection.register_forward_pre_hook(keep))
            hooks.append(lambda block=block, keep=keep_answer: block.mlp.register_forward_hook(keep))
        self._run(tokens, hooks)
        return read, answered

    def _reading(self, layer: int, z: Tensor) -> Callable[[], Any]:
        return lambda: self.blocks[layer].projection.register_forward_pre_hook(lambda module, args: (z,))

    def _answering(self, layer: int, out: Tensor) -> Callable[[], Any]:
        return lambda: self.blocks[layer].mlp.register_forward_hook(lambda module, args, own: out)

    def _told(self, told: dict, layer: int, kind: str) -> Callable[[], Any]:
        module, view = self.blocks[layer].inputs[kind]

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            told[layer, kind] = view(out.clone())

        return lambda: module.register_forward_hook(keep)

    def _put(self, told: Tensor, layer: int, head: int, kind: str, at: list[int]) -> Callable[[], Any]:
        module, view = self.blocks[layer].inputs[kind]

        def put(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            changed = out.clone()
            view(changed)[:, at, head] = told[:, at, head]
            return changed

        return lambda: module.register_forward_hook(put)


@contextmanager
def _registered(hooks: list[Callable[[], Any]]):
    handles = [register() for register in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _numbers(label: str) -> tuple[int, int]:
    layer, head = label[1:].split("H")
    return int(layer), int(head)
