"""Each head alone under an edit of its attention rows: what it then says, and what the model makes of it, by replay.

Heads do not see each other within a layer, so one pass over a layer's attention recalibrates all of them; a cell takes
the head it names, and only the layers above are computed again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.apply import acts_of
from headlens.hooks.attention_taps import AttentionTaps
from headlens.hooks.base_run import Base, record_base
from headlens.hooks.clock import Clock
from headlens.hooks.entering import Entry
from headlens.hooks.gradients import site_gradients
from headlens.hooks.group_masks import note_massive
from headlens.hooks.groups import Massive
from headlens.hooks.halving import halved
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.reading import Read
from headlens.hooks.replay import replay
from headlens.hooks.room import rows_that_fit
from headlens.hooks.sites import ATTENTION_SITES, Head
from headlens.hooks.steps import Recalibration, Step
from headlens.hooks.suffix_run import run_from
from headlens.hooks.sweep import ROWS
from headlens.hooks.token_kinds import Resolving
from headlens.kernels.reference import head_delta


@dataclass(frozen=True, eq=False)
class EachHead:
    """Same-length prompts without padding, and an edit whose heads are tried one by one."""

    model: Model
    tokens: Int[Tensor, "prompt pos"]
    edit: Recalibration
    read: Read

    @cached_property
    def base(self) -> Base:
        """The run without any edit."""
        return record_base(self.model, self.tokens, 0)

    @cached_property
    def base_logits(self) -> Float[Tensor, "prompt token"]:
        """What the model says without any edit of the tokens that are read."""
        return run_from(self.model, self.base, self.tokens, "z", self.read).logits[:, -1]

    @cached_property
    def said(self) -> Mapping[int, tuple[Tensor, Tensor]]:
        """By layer, what its heads say without the edit and with it alone, [prompt, pos, head, d_head] each."""
        resolve = Resolving(self.model.tokenizer, self.model.hf.config)
        steps = [act for act in acts_of([self.edit], self.model.towers, resolve) if isinstance(act, Step)]
        return {step.site.layer: self._of_layer(step) for step in steps}

    def alone(self, heads: Sequence[Head]) -> Float[Tensor, "head prompt token"]:
        """The logits that are read with each of these heads alone under the edit.

        On a GPU as many heads at a time as fit into its memory; torch.OutOfMemoryError where not even one does.
        """
        out = self.base_logits.expand(len(heads), -1, -1).clone()
        starts = {at: start for at, head in enumerate(heads) if (start := self._first_change(head)) is not None}
        order = sorted(starts, key=lambda at: (heads[at], starts[at]))

        def compute(some: list[int]) -> None:
            start = min(starts[at] for at in some)
            entries = self._entries([heads[at] for at in some], start)
            out[some] = replay(self.model, self.base, entries, start, self.read, {})[:, :, -1]

        size = left = self._at_once(min(starts.values(), default=0))
        for first in range(0, len(order), size):
            left = halved(order[first : first + size], left, compute)
        return out

    def _at_once(self, start: int) -> int:
        """How many heads one batch from `start` on may have."""
        prompts, length = self.tokens.shape
        rows = rows_that_fit(self.model, length, length - start, self.base_logits.shape[1] / (length - start))
        return max(1, (ROWS if rows is None else rows) // (prompts * (length - start)))

    def to_first_order(
        self, metric: Callable[[Float[Tensor, "prompt vocabulary"]], Float[Tensor, " prompt"]]
    ) -> Mapping[int, Float[Tensor, "prompt head"]]:
        """By layer, how far each head alone would move each prompt's metric of the last logits, by its gradient."""
        gradients = site_gradients(
            self.model, self.base, self.tokens, "z", [0.0], lambda logits: metric(logits[0])[None]
        )
        return {
            layer: (gradients[layer] * (edited - plain)).sum((1, 3)) for layer, (plain, edited) in self.said.items()
        }

    def _of_layer(self, step: Step) -> tuple[Tensor, Tensor]:
        layer, kept = step.site.layer, self.base.layers[step.site.layer]
        clock = Clock(tokens=self.tokens)
        for group in step.parts:
            if isinstance(group, Massive):
                note_massive(group, layer, kept.resid_pre, clock)
        listener = AttentionTaps(layer, False, clock, dict.fromkeys(ATTENTION_SITES, ()), [step])
        with torch.no_grad():
            said = kept.call.z(), listener(self.model.layers[layer].attention, kept.call)[0]
        if not step.fired:
            raise ValueError(
                f"{step.asked_by} is about rows that these prompts of {self.tokens.shape[1]} tokens do not have."
            )
        return said

    def _first_change(self, head: Head) -> int | None:
        plain, edited = (said[:, :, head.head] for said in self.said[head.layer])
        rows = (plain != edited).any(-1).any(0).nonzero()
        return int(rows[0]) if len(rows) else None

    def _entries(self, heads: Sequence[Head], start: int) -> dict[int, Entry]:
        entries = {}
        for layer in sorted({head.layer for head in heads}):
            own = [head.head for head in heads if head.layer == layer]
            plain, edited = (said[:, start:, own] for said in self.said[layer])
            weights = self.model.layers[layer].output_weights(self.model.n_heads)[own]
            attended = first_tensor(self.base.layers[layer].attention_out)[:, start:]
            entries[layer] = Entry("attention", attended + head_delta(edited, plain, weights))
        return entries
