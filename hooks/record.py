"""Recording: which sites to keep, reduced how, where, and within how many bytes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headlens.hooks.discover import Tower
from headlens.hooks.sites import MAIN, SITE_AXES, Site, check_site, parse_site
from headlens.hooks.taps import Tap, Where

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
Reduction = Callable[[Tensor, Site], Tensor]
# `result` is heads times larger than the residual stream, so it is recorded only when named.
UNASKED = tuple(name for name in SITE_AXES if name != "result")

_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"^\s*([\d.]+)\s*([a-z]+)\s*$", re.IGNORECASE)


@dataclass(eq=False)
class Recorder:
    """Keeps what its taps see, up to a byte budget."""

    sites: Sequence[Site]
    reduce: Mapping[str, Reduction] = field(default_factory=dict)
    budget: int | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    spent: int = 0

    def taps(self) -> list[Tap]:
        return [Tap(site, self._keep, f"The recording of {site}", observes=True) for site in self.sites]

    def _keep(self, tensor: Tensor, where: Where) -> Tensor:
        value, name = tensor.detach(), str(where.site)
        start = where.key_start if where.site.axes[1] == "key" else where.query_start
        further = start > 0 and name in self.kept
        if further and where.site.name in self.reduce:
            raise ValueError(
                f"{where.site} is made of several parts, one for each picture or window, and reduce= would see each by "
                "itself; record it whole, or run one small picture at a time."
            )
        if where.site.name in self.reduce:
            value = self.reduce[where.site.name](value, where.site)
        value = value.to(device=self.device, dtype=self.dtype)
        # a transposed or reduced view would keep the whole tensor alive
        value = value.clone() if value.untyped_storage().nbytes() > value.nbytes else value.contiguous()
        self.spent += value.nbytes
        if self.budget is not None and self.spent > self.budget:
            raise ValueError(
                f"Recording passed its budget of {self.budget:,} bytes at {where.site}; ask for fewer sites or layers, "
                "reduce at capture (reduce={'pattern': at_positions(...)}), or raise budget=."
            )
        self.kept[name] = _joined(self.kept[name], value, where.site) if further else value
        return tensor


def _joined(before: Tensor, value: Tensor, site: Site) -> Tensor:
    """What was kept of the pictures before, and the same of the next. They do not see each other."""
    if site.axes[-1] != "key":
        return torch.cat([before, value], 1)
    hidden = 0.0 if site.name == "pattern" else -torch.inf
    (rows, keys), (own_rows, own_keys) = before.shape[2:], value.shape[2:]
    joined = before.new_full((*before.shape[:2], rows + own_rows, keys + own_keys), hidden)
    joined[:, :, :rows, :keys], joined[:, :, rows:, keys:] = before, value
    return joined


def parse_bytes(size: str | int | None) -> int | None:
    """Read `"2GiB"` or a number of bytes; None is no limit."""
    if size is None or isinstance(size, int):
        return size
    match = _SIZE.match(size)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{size!r} is not a size; write a number of bytes or a text such as '500MiB' or '2GiB'.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def sites_named(names: NamesFilter, towers: Mapping[str, Tower]) -> list[Site]:
    """The sites that a names filter asks for, in the order in which they fire.

    Short names (`"pattern"`) mean every layer of the main tower; full names mean one site; a predicate is asked
    about every site of every tower; None means all sites of the main tower but `result`.
    """
    everything = [
        Site(name, index, tower.name)
        for tower in towers.values()
        for index, layer in enumerate(tower.layers)
        for name in SITE_AXES
        if layer.has(name, tower.is_cross)
    ]
    if names is None:
        return [site for site in everything if site.tower == MAIN and site.name in UNASKED]
    if callable(names):
        chosen = [site for site in everything if names(str(site))]
        if not chosen:
            raise ValueError("The names filter matched no site of this model; print model.hook_names to see them.")
        return chosen
    wanted: list[Site] = []
    for name in [names] if isinstance(names, str) else names:
        if "." in name:
            wanted.append(parse_site(name))
        else:
            check_site(name)
            # sites that a layer lacks are kept here, so that the run refuses them by name
            wanted += [Site(name, index) for index in range(len(towers[MAIN].layers))]
    return list(dict.fromkeys(wanted))


def mean_over(*axes: str) -> Reduction:
    """Reduce at capture: average over named axes, for instance `mean_over("batch")` or `mean_over("query")`."""

    def reduce(tensor: Tensor, site: Site) -> Tensor:
        unknown = [axis for axis in axes if axis not in site.axes]
        if unknown:
            raise ValueError(f"{site} has axes {', '.join(site.axes)}; it has no axis {unknown[0]!r} to average over.")
        return tensor.mean([site.axes.index(axis) for axis in axes])

    return reduce


def at_positions(positions: Tensor | Sequence[int] | int) -> Reduction:
    """Reduce at capture: keep one position per prompt (the query axis of patterns), dropping that axis."""

    def reduce(tensor: Tensor, site: Site) -> Tensor:
        axis = 2 if "query" in site.axes else 1
        rows = torch.as_tensor(positions, device=tensor.device).expand(tensor.shape[0])
        if (rows < 0).any() or (rows >= tensor.shape[axis]).any():
            raise ValueError(f"Positions {positions} are not all within the {tensor.shape[axis]} recorded at {site}.")
        return tensor.movedim(axis, 1)[torch.arange(len(rows), device=tensor.device), rows]

    return reduce
