"""What the forward call that is under way stands for: how far the model has read, and of which tokens."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from headlens.hooks.speaker import inner_speaker

_CLOCK = "_headlens_clock"


@dataclass(eq=False)
class Clock:
    """Read off the arguments of each forward call of a model, before it runs; of an encoder-decoder, its decoder's.

    `memory` is for edits that carry something from one cached step to the next; it is emptied where a run starts.
    """

    past: int = 0  # tokens that the cache holds already
    tokens: Tensor | None = None  # batch pos, all that were read so far; None where the model was not given all ids
    real: Tensor | None = None  # batch pos, False at padding; None where there is none
    memory: dict[Any, dict[str, Any]] = field(default_factory=dict)
    told: Tensor | None = None  # batch pos, the ids of a prompt of which a model inside is about to get embeddings

    def read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """The hook, for `register_forward_pre_hook(..., with_kwargs=True)`."""
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        side = "decoder_" if getattr(getattr(module, "config", None), "is_encoder_decoder", False) else ""
        cache = given.get("past_key_values")
        self.past = int(cache.get_seq_length()) if cache is not None else 0
        if self.past == 0:
            self.memory.clear()
        self.tokens = self._tokens(given.get(f"{side}input_ids"))
        self.real = self._real(given.get(f"{side}attention_mask"))

    def read_inside(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """`read` on a language model that is called by the whole, with pictures already among its embeddings."""
        self.read(module, args, kwargs)
        embeds = kwargs.get("inputs_embeds")
        if self.past == 0 and self.told is not None and embeds is not None and self.told.shape == embeds.shape[:2]:
            self.tokens = self.told

    def _tokens(self, new: Tensor | None) -> Int[Tensor, "batch pos"] | None:
        if new is None or new.dtype.is_floating_point:
            return None
        if self.past == 0:
            return new
        # the prompts of a cache may have been repeated since
        if self.tokens is None or self.tokens.shape != (len(new), self.past):
            return None
        return torch.cat([self.tokens, new], 1)

    def _real(self, mask: Any) -> Bool[Tensor, "batch pos"] | None:
        # one mask per kind of layer, which agree about padding
        if isinstance(mask, Mapping):
            mask = next((each for each in mask.values() if each is not None), None)
        if not isinstance(mask, Tensor):
            return None
        real = mask.bool() if mask.ndim == 2 else self._seeing_themselves(mask)
        return None if bool(real.all()) else real

    def _seeing_themselves(self, mask: Tensor) -> Tensor:
        """`generate` with a static cache gives masks [batch, head, query, key], in which padding sees nothing."""
        visible = (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any(1)
        if self.past == 0:
            return visible.diagonal(dim1=1, dim2=2)
        new, before = visible.any(2), self.real
        if before is None or before.shape != (len(new), self.past):
            before = new.new_ones(len(new), self.past)
        return torch.cat([before, new], 1)


@contextmanager
def ticking(hf: nn.Module) -> Iterator[Clock]:
    """The clock of this model: an outer `with` block's, or else a new one for the length of this one."""
    outer = hf.__dict__.get(_CLOCK)
    if outer is not None:
        yield outer
        return
    clock = Clock()
    handles = [hf.register_forward_pre_hook(clock.read, with_kwargs=True)]
    inside = inner_speaker(hf)
    if inside is not None:
        handles += [
            hf.register_forward_pre_hook(lambda *_: setattr(clock, "told", clock.tokens)),
            hf.register_forward_hook(lambda *_: setattr(clock, "told", None), always_call=True),
            inside[1].register_forward_pre_hook(clock.read_inside, with_kwargs=True),
        ]
    hf.__dict__[_CLOCK] = clock
    try:
        yield clock
    finally:
        del hf.__dict__[_CLOCK]
        for handle in handles:
            handle.remove()


@contextmanager
def telling(hf: nn.Module, ids: Any) -> Iterator[None]:
    """Where `hf` is edited: the ids of what it makes embeddings of, for a model inside it that generates by itself."""
    clock = hf.__dict__.get(_CLOCK)
    if clock is not None:
        clock.told = ids
    try:
        yield
    finally:
        if clock is not None:
            clock.told = None
