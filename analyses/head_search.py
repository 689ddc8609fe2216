"""Heads calibrated on an accuracy task, one by one or together: what they would do by their gradient, what they do.

Prompts of equal length run together without padding. The gradient ranks all heads in the time of a few forwards;
running the model with one head calibrated at a time, by replay, tells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.choice_scores import choice_log_prob, choice_logits, choice_runs, correct
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.equal_lengths import of_equal_length
from headlens.hooks.each_head import EachHead
from headlens.hooks.halving import in_batches, within_memory
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.room import gradient_rows_of_the_card
from headlens.hooks.sites import MAIN, Head
from headlens.hooks.trial import EXACT

# Rows (prompts x positions) of one backward pass on a CPU, whose activations are all kept.
_ROWS = 384


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts of equal length, and each head alone on them. It holds much of their runs, so one is made at a time."""

    task: ChoiceTask
    each: EachHead


@dataclass(frozen=True, eq=False)
class HeadSearch:
    """The heads `pool` of a model under an edit, on the prompts of a task. `name` tells its chunks from others'."""

    model: Model
    task: ChoiceTask
    name: str
    pool: Sequence[Head]
    edit_of: Callable[[Sequence[Head]], Recalibrate]
    chunks: Checkpoint | NotKept

    def right(self, label: str, heads: Sequence[Head] = ()) -> Bool[np.ndarray, " prompt"]:
        """Whether each prompt is answered rightly with all these heads, known as `label`, under the edit together."""
        edits = [self.edit_of(heads)] if heads else []
        compute = lambda: correct(choice_runs(self.model, self.task, edits), self.task).numpy()  # noqa: E731
        return self._kept(f"{self.name}-together-{label}", compute)

    def alone(self, heads: Sequence[Head]) -> Bool[np.ndarray, "one_more prompt"]:
        """Whether each prompt is answered rightly without the edit, and then with each head alone under it.

        Both are computed alike, since in half precision another order of sums decides close calls.
        """
        out = np.zeros((1 + len(heads), len(self.task)), bool)
        compute = self._alone if self.why_not_replayed is None else self._alone_in_whole_runs
        for number, prompts in enumerate(self.groups):
            whole = partial(self._in_parts, prompts, lambda some: compute(some, heads), axis=1)
            out[:, prompts] = self._kept(f"{self.name}-alone-{number:04d}", whole)
        return out

    def first_order(self) -> Float[np.ndarray, "prompt layer head"]:
        """How far each head alone would move the right choice's log-probability among the choices (nats); NaN outside
        the pool."""
        out = np.full((len(self.task), self.model.n_layers, self.model.n_heads), np.nan, np.float32)
        for number, prompts in enumerate(self.groups):
            whole = partial(self._in_parts, prompts, self._first_order, axis=0)
            out[prompts] = self._kept(f"{self.name}-first-order-{number:04d}", whole)
        return out

    @cached_property
    def groups(self) -> list[list[int]]:
        """All prompts, those of equal length together, as many at a time as fit one backward pass.

        On a GPU they follow from its whole memory, since a resumed run must have the same ones.
        """

        def at_once(length: int) -> int:
            rows = gradient_rows_of_the_card(self.model, length, length)
            return (_ROWS if rows is None else rows) // length

        return [prompts for prompts, _ in of_equal_length(self.task.lengths, at_once)]

    @cached_property
    def why_not_replayed(self) -> str | None:
        """None if replay answers as whole edited runs do, else the reason; tried on a prompt of the longest."""
        model, group, heads = self.model, self._group(self.groups[-1][:1]), [self.pool[0], self.pool[-1]]
        if not model.towers[MAIN].is_causal:
            return f"{type(model.hf).__name__} is not causal"
        try:
            # memory that does not suffice is no sign of an unusual architecture
            with within_memory(self._one_of(self.groups[-1])):
                got = self._choices(group, heads)[1:]
                want = torch.stack([choice_runs(model, group.task, [self.edit_of([head])]) for head in heads])
        except (TypeError, RuntimeError, AttributeError, KeyError, IndexError) as problem:
            # whatever an unusual architecture trips over on the fast path, the plain one is right
            return f"{type(model.hf).__name__} cannot be replayed ({type(problem).__name__}: {problem})"
        there = want.isfinite()
        error, bound = float((got - want)[there].abs().max()), EXACT if model.dtype == torch.float32 else 0.1
        exact = error <= bound * max(1.0, float(want[there].abs().max()))
        return None if exact else f"replaying {type(model.hf).__name__} is off by {error:.2g}"

    def _group(self, prompts: list[int]) -> Group:
        own = self.task.subset(prompts)
        tokens, choices = own.tokens.to(self.model.device), own.choices.clamp(min=0).to(self.model.device)
        return Group(own, EachHead(self.model, tokens, self.edit_of(self.pool), Read(choices)))

    def _in_parts(self, prompts: list[int], compute: Callable[[list[int]], np.ndarray], axis: int) -> np.ndarray:
        """What `compute` says of these prompts, together or in as many parts as a GPU's memory makes necessary."""
        found: list[np.ndarray] = []
        in_batches(prompts, len(prompts), lambda some: found.append(compute(some)), self._one_of(prompts))
        return np.concatenate(found, axis)

    def _one_of(self, prompts: list[int]) -> str:
        return f"the runs of one prompt of {int(self.task.lengths[prompts[0]])} tokens"

    def _first_order(self, prompts: list[int]) -> np.ndarray:
        group = self._group(prompts)
        found = group.each.to_first_order(lambda logits: choice_log_prob(choice_logits(logits, group.task), group.task))
        out = np.full((len(prompts), self.model.n_layers, self.model.n_heads), np.nan, np.float32)
        for layer, effects in found.items():
            out[:, layer] = effects.float().cpu().numpy()
        outside = np.ones(out.shape[1:], bool)
        outside[tuple(np.array(self.pool).T)] = False
        out[:, outside] = np.nan
        return out

    def _alone(self, prompts: list[int], heads: Sequence[Head]) -> np.ndarray:
        group = self._group(prompts)
        return correct(self._choices(group, heads), group.task).numpy()

    def _alone_in_whole_runs(self, prompts: list[int], heads: Sequence[Head]) -> np.ndarray:
        own = self.task.subset(prompts)
        edits = [[], *([self.edit_of([head])] for head in heads)]
        runs = [choice_runs(self.model, own, edit) for edit in edits]
        return correct(torch.stack(runs), own).numpy()

    def _choices(self, group: Group, heads: Sequence[Head]) -> Float[Tensor, "one_more prompt choice"]:
        """What is said of the choices without the edit, and then with each head alone under it."""
        logits = torch.cat([group.each.base_logits[None], group.each.alone(heads)]).float().cpu()
        return logits.masked_fill(group.task.choices < 0, -torch.inf)

    def _kept(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return self.chunks.kept(key, lambda: {"found": compute()})["found"]
