"""The attention of one layer with its taps and recalibrations: the listener that `tapped` places on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headlens.hooks.clock import Clock
from headlens.hooks.history import follow
from headlens.hooks.intercept import Attention
from headlens.hooks.one_pass import Rows, one_pass
from headlens.hooks.report import Report
from headlens.hooks.row_blocks import Block, row_blocks, whole_block
from headlens.hooks.sites import Site
from headlens.hooks.steps import Outcome, Step, recalibrated
from headlens.hooks.taps import Tap
from headlens.kernels.reference import weighted_values


@dataclass(frozen=True, eq=False)
class Watch:
    """A function that looks at one layer's attention, `function(block, pattern)`, by blocks of its rows in order.

    `pattern` is [batch, head, row, key], for all heads, as the model goes on with it: after all edits. Where there are
    no edits, `at_once(call, layer, clock, key_start)` is asked first, and True means that it has seen all it wants.
    """

    site: Site
    function: Callable[[Block, Tensor], None]
    asked_by: str
    at_once: Callable[[Attention, int, Clock, int], bool] | None = None
    fired: list[bool] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class AttentionTaps:
    """One layer's taps by site, steps, and watchers; those of an outer `with` block come first.

    Qwen's image encoders call the attention function for each picture (or window of one) by itself: taps then see one
    after the other, and are told where its first patch stands among all.
    """

    layer: int
    is_cross: bool
    clock: Clock
    sites: Mapping[str, Sequence[Tap]]
    steps: Sequence[Step] = ()
    watchers: Sequence[Watch] = ()
    reports: Sequence[tuple[Report, Sequence[Step]]] = ()  # each with the steps of its own `with` block
    reads_pictures: bool = False
    calls: list[int] = field(default_factory=list)  # if it reads pictures, the rows of each call since it began

    def begin(self, module: nn.Module, args: tuple) -> None:
        """The hook, for `register_forward_pre_hook`, on the module that will call."""
        self.calls.clear()

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        queries, keys = call.query.shape[2], call.key.shape[2]
        if self.reads_pictures:
            self.calls.append(queries)
        # keys end with the newest token, except in a static cache, which is longer than what was read
        key_start = 0 if self.is_cross else max(self._first_row() + queries - keys, 0)
        call = call.with_inputs(
            self._heads_first("rot_q", call.query, key_start),
            self._heads_first("rot_k", call.key, key_start),
            self._heads_first("v", call.value, key_start),
        )
        if remembering := [step for step in self.steps if step.remembers]:
            follow(self.clock, self.layer, call, key_start, remembering)
        if self.sites["attn_scores"] or self.sites["pattern"]:
            return self._in_one(call, key_start)
        z = self._in_blocks(call, key_start) if self.steps or self.watchers else call.z()
        return self._run("z", z, key_start), None

    def _in_one(self, call: Attention, key_start: int) -> tuple[Tensor, Tensor]:
        """Where somebody wants the scores or the pattern, they are there as a whole."""
        before = call.scores()
        scores = self._run("attn_scores", before, key_start)
        _refuse_empty_rows(before, scores)
        block = whole_block(call, scores, self.layer, self.clock, key_start)
        pattern = self._recalibrated(block).pattern if self.steps else block.pattern
        pattern = self._run("pattern", pattern.to(scores.dtype), key_start)
        _look(self.watchers, block, pattern)
        return self._run("z", weighted_values(pattern, call.value), key_start), pattern

    def _in_blocks(self, call: Attention, key_start: int) -> Tensor:
        """Rows that no step changes are exactly what they would be without any."""
        z, rows = call.z(), self._rows_asked(call.query.shape[2])
        watchers = [watch for watch in self.watchers if not self._seen_at_once(watch, call, key_start)]
        if not self.steps and not watchers:
            return z
        if not (watchers or self.reports or self.is_cross):
            found = one_pass(call, self.steps, self.layer, self.clock, key_start, rows)
            if found is not None:
                return _with_rows(z, found)
        edited = sorted({head for step in self.steps for head in step.heads})
        heads = range(call.query.shape[1]) if watchers else edited
        for block in row_blocks(call, self.layer, heads, self.clock, key_start, rows=rows):
            outcome = self._recalibrated(block)
            _look(watchers, block, outcome.pattern)
            changed = self._moving(outcome, block).transpose(1, 2)[..., None]
            if changed.any():
                # not in place: autograd may hold the model's own
                z = z.clone() if z.requires_grad else z
                at = slice(block.first_row, block.first_row + len(block.queries))
                own = z[:, at][:, :, [*block.heads]]
                z[:, at, [*block.heads]] = torch.where(changed, block.z(outcome.pattern).to(z.dtype), own)
        return z

    def _rows_asked(self, queries: int) -> tuple[int, int]:
        """From the first row that a step names up to behind the last; all where one is about all, or looks back."""
        named = [step.rows_named for step in self.steps if not step.remembers]
        rows = [each.reshape(-1) for each in named if each is not None]
        if self.watchers or self.reports or not rows or len(rows) < len(self.steps):
            return 0, queries
        places = torch.cat(rows) - self.clock.past
        return max(int(places.min()), 0), min(int(places.max()) + 1, queries)

    def _moving(self, outcome: Outcome, block: Block) -> Tensor:
        """The rows that changed, and those that have a gradient in a temperature that leaves them as they are."""
        moving = outcome.changed(block)
        for step in self.steps:
            tau = getattr(step.edit, "tau", None)
            if isinstance(tau, Tensor) and tau.requires_grad and torch.is_grad_enabled():
                moving[:, block.places(step.heads)] |= step.rows(block)[:, None]
        return moving

    def _recalibrated(self, block: Block) -> Outcome:
        outcome = recalibrated(block, self.steps)
        for report, own in self.reports:
            report.add(block, outcome, own)
        return outcome

    def _seen_at_once(self, watch: Watch, call: Attention, key_start: int) -> bool:
        if self.steps or self.is_cross or watch.at_once is None:
            return False
        if not watch.at_once(call, self.layer, self.clock, key_start):
            return False
        watch.fired.append(True)
        return True

    def _run(self, site: str, tensor: Tensor, key_start: int) -> Tensor:
        for tap in self.sites[site]:
            tensor = tap(tensor, self._first_row(), key_start)
        return tensor

    def _first_row(self) -> int:
        """Which row the call under way begins with: the cache holds those before, or earlier calls had them."""
        return sum(self.calls[:-1]) if self.reads_pictures else self.clock.past

    def _heads_first(self, site: str, tensor: Tensor, key_start: int) -> Tensor:
        """Taps see positions before heads, the attention function has heads before positions."""
        return self._run(site, tensor.transpose(1, 2), key_start).transpose(1, 2) if self.sites[site] else tensor


def _look(watchers: Sequence[Watch], block: Block, pattern: Tensor) -> None:
    for watch in watchers:
        watch.fired.append(True)
        watch.function(block, pattern.to(block.scores.dtype))


def _with_rows(z: Tensor, found: Sequence[Rows]) -> Tensor:
    """`z` [batch, row, head, d] with what was found in its place."""
    for rows in found:
        at, heads = slice(rows.first, rows.first + rows.z.shape[1]), [*rows.heads]
        z[:, at, heads] = torch.where(rows.own[:, :, None, None], rows.z, z[:, at, heads])
    return z


def _refuse_empty_rows(before: Tensor, after: Tensor) -> None:
    emptied = (after.amax(-1) == -torch.inf) & (before.amax(-1) != -torch.inf)
    if emptied.any():
        prompt, head, row = (int(index) for index in emptied.nonzero()[0])
        raise ValueError(
            f"An edit of attn_scores left query {row} of head {head} (prompt {prompt}) no key to attend to; "
            "leave at least one key of every row above -inf."
        )
