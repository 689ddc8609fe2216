"""The attention function that transformers calls for every layer while headlens is watching.

`listening(hf)` switches every attention module of one model to this function and back. What a module does with
its query, key and value is decided by the listener placed on it (`placed`); a module without one computes
plain scaled-dot-product attention. Nothing is global but the function's name: state sits on the modules of the
model being run and is removed on exit, also after an exception.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import sdpa_mask

from headlens.kernels.reference import attention_pattern, attention_scores, expand_groups, weighted_values

NAME = "headlens"
_LISTENER = "_headlens_listener"
_IMPLEMENTATION = "_attn_implementation_internal"
_locks: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()
_locks_guard = threading.Lock()


@dataclass(frozen=True)
class Attention:
    """One call of the attention function: what the layer handed over, in the interface's shapes."""

    query: Tensor  # batch head query d_head
    key: Tensor  # batch kv_head key d_head
    value: Tensor  # batch kv_head key d_value
    mask: Tensor | None  # boolean (True = visible) or additive, broadcastable to batch head query key
    scaling: float
    causal: bool  # only meaningful where mask is None
    bias: Tensor | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    def with_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> "Attention":
        return replace(self, query=query, key=key, value=value)

    def allowed(self) -> Tensor | None:
        """Boolean mask of visible keys, or None where all are."""
        if self.mask is not None:
            return self.mask if self.mask.dtype == torch.bool else self.mask > torch.finfo(self.mask.dtype).min / 2
        queries, keys = self.query.shape[2], self.key.shape[2]
        if not self.causal or queries == 1:
            return None
        return torch.ones(queries, keys, dtype=torch.bool, device=self.query.device).tril()[None, None]

    def scores(self) -> Tensor:
        """Scaled, biased and capped dot products [batch, head, query, key]; hidden keys are -inf."""
        bias = self.bias
        if self.mask is not None and self.mask.dtype != torch.bool:
            # an additive mask may carry finite biases beside the forbidden keys
            bias = self.mask if bias is None else bias + self.mask
        return attention_scores(self.query, self.key, self.allowed(), self.scaling, bias, self.softcap)

    def pattern(self) -> Tensor:
        return attention_pattern(self.scores(), self.sinks)

    def z(self) -> Tensor:
        """The heads' outputs [batch, query, head, d_head] without storing a pattern where torch can avoid it."""
        if self.softcap is not None or self.sinks is not None:
            return weighted_values(self.pattern(), self.value)
        n_heads, mask = self.query.shape[1], self.mask
        key, value = expand_groups(self.key, n_heads), expand_groups(self.value, n_heads)
        if self.bias is not None:
            allowed = self.allowed()
            mask = self.bias if allowed is None else self.bias.masked_fill(~allowed, torch.finfo(self.bias.dtype).min)
        causal = mask is None and self.causal and self.query.shape[2] > 1
        z = nn.functional.scaled_dot_product_attention(
            self.query, key, value, attn_mask=mask, is_causal=causal, scale=self.scaling
        )
        return z.transpose(1, 2).contiguous()


# Answers one attention call with z [batch, query, head, d_head], and the pattern if it was formed.
Listener = Callable[[nn.Module, Attention], tuple[Tensor, Tensor | None]]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """The registered attention function. Dropout is not applied: headlens runs models in evaluation mode."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = Attention(query, key, value, attention_mask, scale, bool(causal), position_bias, softcap, s_aux)
    listener = listener_of(module)
    return (call.z(), None) if listener is None else listener(module, call)


# Without a mask function of the same name transformers passes no mask at all, and causality silently disappears.
AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def listener_of(module: nn.Module) -> Listener | None:
    """The listener now on an attention module, if any."""
    return module.__dict__.get(_LISTENER)


@contextmanager
def evaluating(hf: nn.Module) -> Iterator[None]:
    """Dropout off for the length of the run, whatever mode each module was in."""
    training = [module for module in hf.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def listening(hf: nn.Module) -> Iterator[None]:
    """Route every attention layer of `hf` through `attend`; one thread at a time, reentrant, undone on exit."""
    with _lock_of(hf), evaluating(hf):
        configs = {id(c): c for m in hf.modules() if isinstance(c := getattr(m, "config", None), PretrainedConfig)}
        before = [(config, getattr(config, _IMPLEMENTATION)) for config in configs.values()]
        try:
            for config, _ in before:
                setattr(config, _IMPLEMENTATION, NAME)
            yield
        finally:
            for config, implementation in before:
                setattr(config, _IMPLEMENTATION, implementation)


@contextmanager
def placed(listeners: Mapping[nn.Module, Listener]) -> Iterator[None]:
    """Put a listener on each attention module, and back what was there before."""
    before = {module: module.__dict__.get(_LISTENER) for module in listeners}
    try:
        for module, listener in listeners.items():
            module.__dict__[_LISTENER] = listener
        yield
    finally:
        for module, listener in before.items():
            if listener is None:
                module.__dict__.pop(_LISTENER, None)
            else:
                module.__dict__[_LISTENER] = listener


def _lock_of(hf: nn.Module) -> Any:
    with _locks_guard:
        return _locks.setdefault(hf, threading.RLock())
