"""Recalibrations at work: what the edits of one layer make of a block of its attention rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from headlens.hooks.group_masks import partition
from headlens.hooks.groups import Group, Massive, TokenIds, parts_of
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_blocks import Block
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Site
from headlens.hooks.touched import touched
from headlens.kernels.algebra import group_masses, scaled, tempered, transferred, weighted
from headlens.kernels.reference import attention_pattern

Recalibration = Recalibrate | Temperature | KnockOut | ForceRow


@dataclass(frozen=True, eq=False)
class Step:
    """One edit of one layer's rows. `fired` gains an entry each time rows of it ran."""

    site: Site
    heads: tuple[int, ...]
    edit: Recalibration
    groups: Mapping[str, Group | str]  # of keys, in order, resolved to token ids
    asked_by: str
    fired: list[bool] = field(default_factory=list)

    @property
    def reweights(self) -> bool:
        """Whether it multiplies attention that is divided by its new sum."""
        return isinstance(self.edit, ForceRow) or getattr(self.edit, "policy", "") == "renorm"

    @property
    def transfers(self) -> bool:
        return getattr(self.edit, "policy", "") == "transfer"

    @property
    def scales(self) -> bool:
        """Whether it multiplies attention and leaves it so."""
        return getattr(self.edit, "policy", "") == "raw"

    @property
    def remembers(self) -> bool:
        """Whether cached steps need to know of earlier tokens or rows."""
        return any(
            isinstance(part, Massive | TokenIds) or (isinstance(part, SinkRule) and part.mode == "causal_column")
            for part in self.parts
        )

    @property
    def parts(self) -> list[Group]:
        """Its groups, those of unions one by one."""
        named = [group for group in self.groups.values() if not isinstance(group, str)]
        return [part for group in named for part in parts_of(group)]

    @property
    def rows_named(self) -> Tensor | None:
        """Its rows by position, for all prompts or for each; None where it is about all."""
        if self.edit.pos is not None:
            return torch.as_tensor(self.edit.pos).cpu()
        return self._rows_of_edges

    def of(self, block: Block) -> "Block | None":
        """The part of a block that this edit acts on, or None where none of its rows are in it."""
        rows = self.rows(block)
        return block.of_heads(self.heads) if rows.any() else None

    def rows(self, block: Block) -> Bool[Tensor, "#batch row"]:
        """Which rows are its own, padding left out."""
        own = touched(self.edit.pos, block.queries, len(block.scores)) & block.real
        edges = self._rows_of_edges
        return own if edges is None else own & torch.isin(block.queries, edges.to(own.device))

    @property
    def _rows_of_edges(self) -> Tensor | None:
        edges = self.edit.edges if isinstance(self.edit, KnockOut) else ()
        return torch.tensor([query for query, _ in edges]) if edges else None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Rows of attention after all steps of their layer."""

    pattern: Float[Tensor, "batch head row key"]
    idle: Bool[Tensor, "batch head row"]  # donors had something to give and receivers nothing to take it with
    promised: Float[Tensor, "batch head row"]  # what the row should sum to

    def changed(self, block: Block) -> Bool[Tensor, "batch head row"]:
        """Which rows are no longer as the model has them."""
        if self.pattern is block.pattern:
            return torch.zeros_like(self.idle)
        return (self.pattern != block.pattern).any(-1)


def recalibrated(block: Block, steps: Sequence[Step]) -> Outcome:
    """The block's attention under these steps, in the order of the algebra. A row left without any key is a
    ValueError."""
    scores = block.scores
    for step in sorted(steps, key=_stage):
        own = step.of(block)
        if own is None:
            # a rule that looks back must see every row, also those that are not its own
            _look(step, block)
            continue
        step.fired.append(True)
        if isinstance(step.edit, Temperature) or step.reweights:
            at = block.places(step.heads)
            scores = _put(scores, at, step.rows(block), _on_scores(step, own, scores[:, at]))
    _refuse_empty(block, scores)
    pattern = block.pattern if scores is block.scores else attention_pattern(scores, block.sinks)
    idle = torch.zeros(pattern.shape[:3], dtype=torch.bool, device=pattern.device)
    promised = pattern.sum(-1) if block.sinks is not None else torch.ones_like(pattern[..., 0])
    for step in sorted(steps, key=_stage):
        own = step.of(block)
        if own is None or isinstance(step.edit, Temperature) or step.reweights:
            continue
        at, rows = block.places(step.heads), step.rows(block)
        after, nothing, owed = _on_pattern(step, own, pattern[:, at], promised[:, at])
        pattern = _put(pattern, at, rows, after)
        idle[:, at] |= nothing & rows[:, None]
        promised = _put(promised[..., None], at, rows, owed[..., None])[..., 0]
    return Outcome(pattern, idle, promised)


def _stage(step: Step) -> int:
    """Temperatures, then what is renormalised, then transfers, then what is not."""
    if isinstance(step.edit, Temperature):
        return 0
    return 1 if step.reweights else 2 if step.transfers else 3


def _on_scores(step: Step, own: Block, scores: Tensor) -> Tensor:
    match step.edit:
        case Temperature():
            return tempered(scores, step.edit.of_rows(own.queries))
        case Recalibrate():
            return weighted(scores, _groups_in(step, own), scores.new_tensor(step.edit.weights()))
        case KnockOut():
            return scores.masked_fill(_groups_in(step, own) == 1, -torch.inf)
        case ForceRow():
            return torch.where((_groups_in(step, own) == 1) & own.visible, 0.0, -torch.inf)


def _on_pattern(step: Step, own: Block, pattern: Tensor, promised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows under a step, which of them were left alone for want of a receiver, and what they should sum to."""
    groups = _groups_in(step, own)
    if isinstance(step.edit, Recalibrate) and step.edit.beta is not None:
        after, idle = transferred(pattern, groups == 1, groups == 2, step.edit.beta)
        return after, idle, promised
    weights = step.edit.weights() if isinstance(step.edit, Recalibrate) else [1.0, 0.0]
    kappa = pattern.new_tensor(weights)
    owed = (group_masses(pattern, groups, len(kappa)) * kappa).sum(-1)
    return scaled(pattern, groups, kappa), torch.zeros_like(owed, dtype=torch.bool), owed


def _look(step: Step, block: Block) -> None:
    """Let the groups of a step see rows that are not its own."""
    if step.remembers:
        _groups_in(step, block.of_heads(step.heads))


def _groups_in(step: Step, own: Block) -> Integer[Tensor, "#batch #head #row key"]:
    """Which of the step's groups each key of the block is in, from 1; 0 is in none."""
    if isinstance(step.edit, KnockOut) and len(step.edit.edges):
        return _edges(step.edit, own)
    return partition(step.groups, own, own.clock.memory.setdefault(step, {}))


def _edges(edit: KnockOut, own: Block) -> Integer[Tensor, "1 1 row key"]:
    edges = torch.tensor(edit.edges, device=own.keys.device)
    here = edges[torch.isin(edges[:, 0], own.queries) & torch.isin(edges[:, 1], own.keys)]
    rows, keys = (here - torch.stack([own.queries[0], own.keys[0]])).T
    cut = torch.zeros(len(own.queries), len(own.keys), dtype=torch.uint8, device=own.keys.device)
    cut[rows, keys] = 1
    return cut[None, None]


def _put(whole: Tensor, at: list[int], rows: Tensor, new: Tensor) -> Tensor:
    """`whole` [batch, head, row, ...] with the rows of the heads `at` replaced."""
    if len(at) == whole.shape[1]:
        return torch.where(rows[:, None, :, None], new, whole)
    out = whole.clone()
    out[:, at] = torch.where(rows[:, None, :, None], new, whole[:, at])
    return out


def _refuse_empty(block: Block, scores: Tensor) -> None:
    if scores is block.scores:
        return
    emptied = (scores.amax(-1) == -torch.inf) & (block.scores.amax(-1) != -torch.inf)
    if emptied.any():
        prompt, head, row = (int(place) for place in emptied.nonzero()[0])
        raise ValueError(
            f"An edit left row {int(block.queries[row])} of L{block.layer}H{block.heads[head]} (prompt {prompt}) no "
            "key to attend to; leave it one visible key or more, or cut with policy='raw', which lets a row sum to 0."
        )
