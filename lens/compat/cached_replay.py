"""Rows of indices on the replay engine: what each patches, whether that is exact, and what the metrics make of it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.compat.asked import INSIDE, PATTERN_SITES, WHOLE, Asked, Sizes, cells_asked
from headlens.compat.heads_say import BaseRun, base_run, heads_say
from headlens.compat.patch import Patch
from headlens.compat.replaying import Evaluate, Sweep, filling, first_differing
from headlens.compat.runner import Runner
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.model import Model
from headlens.hooks.sites import Head
from headlens.hooks.sweep import Fill
from headlens.hooks.trial import EXACT

# What an unusual architecture may trip over on the fast path; whole forwards need none of it.
_TRIPS = (TypeError, RuntimeError, AttributeError, KeyError, IndexError, ValueError)


class NotExact(Exception):
    """Replay is not possible or not exact; `reason` is None where whole forwards are nothing to speak of."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class CachedReplay:
    """Cells and what is known of the runs: `source` is the cache at the site, in the shape of the base run's."""

    runner: Runner
    patch: Patch
    site: str
    asked: list[Asked]
    base: BaseRun
    source: Mapping[int, Tensor]
    sweep: Sweep

    def values(self, bar: tqdm) -> Tensor:
        """What the metrics say of each row, [row, metric (, batch)]."""
        values = self.sweep.unmoved.expand(len(self.asked), *self.sweep.unmoved.shape).clone()
        for alone, by_rows in self._grouped().items():
            fill = self._fill(alone)
            for (start, stop), indices in by_rows.items():
                cells = [_cell(self.asked[index]) for index in indices]
                values[indices] = self.sweep.measured(fill, cells, self._rows(start, stop)).to(values)
                bar.update(len(indices))
        bar.update(bar.total - bar.n)
        return values

    def check(self) -> None:
        """Compare three cells that may move, the first and the last among them, with whole forwards.

        NotExact where they differ.
        """
        moving = [index for index, asked in enumerate(self.asked) if self._moves(asked)]
        for index in {*moving[:1], *moving[len(moving) // 2 :][:1], *moving[-1:]}:
            asked = self.asked[index]
            want = self.patch.whole(self.runner, self.patch.rows[index])[:, self.sweep.earliest :]
            engine, rows = self.sweep.engine(self._fill(asked.alone)), self._rows(asked.start, asked.stop)
            got = engine.patched([_cell(asked)], rows, lambda logits: logits)[0]
            error = float((got - want).abs().max())
            exact = EXACT if want.dtype in (torch.float32, torch.float64) else 0.1
            if not error <= exact * max(1.0, float(want.abs().max())):
                raise NotExact(f"replaying {self.patch.activation} at {self.patch.rows[index]} is off by {error:.2g}.")

    def _moves(self, asked: Asked) -> bool:
        """Whether the patch may change anything: before the first difference from the base run it cannot."""
        exchanged = asked.stop - 1
        if self.site in ("k", "v") and asked.alone is not None:
            exchanged = asked.alone
        return exchanged >= self.sweep.start

    def _grouped(self) -> dict[int | None, dict[tuple[int, int], list[int]]]:
        """Indices of the cells that may move, by what is exchanged and by the positions at which they are patched."""
        groups: dict[int | None, dict[tuple[int, int], list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, asked in enumerate(self.asked):
            if self._moves(asked):
                groups[asked.alone][asked.start, asked.stop].append(index)
        return groups

    def _fill(self, alone: int | None) -> Fill:
        if self.site not in INSIDE:
            return filling(self.source, self.base.site)
        by_key = self.site in PATTERN_SITES
        said = heads_say(self.runner, self.patch.tokens, self.patch.activation, self.source, self.base, alone, by_key)
        return filling(said, self.base.z)

    def _rows(self, start: int, stop: int) -> Rows:
        at = torch.arange(self.patch.tokens.shape[1])
        return Rows(((at >= start) & (at < stop)).expand(len(self.patch.tokens), -1))


def prepare(runner: Runner, model: Model, patch: Patch, site: str, evaluate: Evaluate) -> CachedReplay:
    """Everything before the first cell. NotExact where replay does not serve."""
    asked = cells_asked(patch.setter, site, patch.rows, _sizes(runner, patch, site))
    if asked is None or patch.tokens.ndim != 2:
        raise NotExact
    if site in ("k", "v") and getattr(model.hf.config.get_text_config(), "num_kv_shared_layers", 0):
        raise NotExact(f"later layers of {type(model.hf).__name__} read {site} of earlier ones.")
    layers = sorted({each.layer for each in asked})
    cached = {layer: patch.cache[runner.hook_name(patch.activation, layer)] for layer in layers}
    try:
        base = base_run(runner, patch.tokens, patch.activation, layers, site in INSIDE)
    except _TRIPS as problem:
        raise NotExact(f"it cannot be recorded ({type(problem).__name__}: {problem}).") from problem
    source = {layer: _fitted(cached[layer], base.site[layer]) for layer in layers}
    start = first_differing(source, base.site, axis=2 if site in PATTERN_SITES else 1)
    tokens, length = patch.tokens.to(model.device), patch.tokens.shape[1]
    engine_site = site if site in WHOLE else "z"
    sweep = Sweep(model, tokens, length - 1 if start is None else start, engine_site, base.logits, evaluate)
    prepared = CachedReplay(runner, patch, site, asked, base, source, sweep)
    if start is not None:
        try:
            prepared.check()
        except _TRIPS as problem:
            raise NotExact(f"it cannot be replayed ({type(problem).__name__}: {problem}).") from problem
    return prepared


def _sizes(runner: Runner, patch: Patch, site: str) -> Sizes:
    heads = 1
    if site not in WHOLE:
        cached = patch.cache[runner.hook_name(patch.activation, patch.rows[0][0])]
        heads = cached.shape[1 if site in PATTERN_SITES else 2] if cached.ndim == 4 else 0
    if not heads or runner.n_heads % heads:
        raise NotExact
    return Sizes(runner.n_layers, runner.n_heads, heads, patch.tokens.shape[-1])


def _fitted(cached: Tensor, base: Tensor) -> Tensor:
    """The cached activation as the base run's: of the same shape, or of one prompt for all."""
    if cached.ndim != base.ndim or cached.shape[1:] != base.shape[1:] or len(cached) not in (1, len(base)):
        raise NotExact
    return cached.to(base).expand_as(base)


def _cell(asked: Asked) -> Cell:
    if not asked.heads:
        return Cell.of_layer(asked.layer)
    return Cell.of_heads(Head(asked.layer, head) for head in asked.heads)
