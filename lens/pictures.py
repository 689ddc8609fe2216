"""How a map is laid out to be drawn: which of its dims span the picture, and which are looked into one by one.

    (layer, head)              rows layer, columns head
    (layer, head, pos)         the same, each head at one position: its strongest, or one that all heads share
    (layer, head, query, key)  the same with pairs of positions
    (layer, pos)               rows layer, columns pos
    (layer)                    a bar a layer
    (heads), (heads, pos)      sets of heads in place of layers

What .sel(...) leaves of these is laid out by the same rule, as (query, key) of one head. A dim metric makes a picture
a metric.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import Interval

_ORDER = ("layer", "head", "heads", "pos", "query", "key")
_TITLES = {"pos": "position", "heads": "set"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A map whose dims are `outer`, which span the picture (bars: one, or rows and columns), and then `inner`."""

    headmap: HeadMap
    outer: tuple[str, ...]
    inner: tuple[str, ...]

    @property
    def noun(self) -> str:
        """What one cell of the picture is."""
        if "head" in self.outer:
            return "head"
        return title_of(self.outer[0]) if len(self.outer) == 1 else "cell"

    @cached_property
    def peaks(self) -> np.ndarray:
        """For each cell of the outer dims, in order, the index of its largest magnitude in the flat map."""
        cells = int(np.prod(self.headmap.values.shape[: len(self.outer)]))
        flat = self.headmap.values.reshape(cells, -1)
        strongest = np.where(np.isnan(flat), -1, np.abs(flat)).argmax(1)
        return np.arange(cells) * flat.shape[1] + strongest

    @cached_property
    def at_peaks(self) -> HeadMap:
        """The map of the outer dims alone, each cell at its largest magnitude; the map itself without inner dims."""
        if not self.inner:
            return self.headmap
        shape, samples = self.headmap.values.shape[: len(self.outer)], self.headmap.samples
        return replace(
            self.headmap,
            values=self.headmap.values.reshape(-1)[self.peaks].reshape(shape),
            samples=None if samples is None else samples.reshape(len(samples), -1)[:, self.peaks].reshape(-1, *shape),
            dims=self.outer,
            coords={dim: self.headmap.coords[dim] for dim in self.outer},
        )


def pictures(headmap: HeadMap) -> dict[str, Picture]:
    """The pictures of a map by metric; the only one is under "" if the map has no dim metric.

    ValueError for a map of other dims, or an empty one.
    """
    if 0 in headmap.values.shape:
        return {"": _picture(headmap)}
    return {name: _picture(each) for name, each in by_metric(headmap).items()}


def by_metric(headmap: HeadMap) -> dict[str, HeadMap]:
    """The map of each metric by its name; the map itself, under "", if it has no dim metric.

    Where `provenance["metrics"]` has units and sign of a metric, its map has these, and is called like it.
    """
    if "metric" not in headmap.dims:
        return {"": headmap}
    own = headmap.provenance.get("metrics", {})
    parts = {str(name): headmap.sel(metric=name) for name in headmap.coords["metric"]}
    return {name: replace(each, name=name, **own[name]) if name in own else each for name, each in parts.items()}


def interval_of(headmap: HeadMap) -> Interval | None:
    """The 95% interval of every value; None where there are not two prompts or more."""
    return headmap.ci() if headmap.samples is not None and len(headmap.samples) > 1 else None


def title_of(dim: str) -> str:
    """What a reader calls a dim."""
    return _TITLES.get(dim, dim)


def _picture(headmap: HeadMap) -> Picture:
    strange = [dim for dim in headmap.dims if dim not in _ORDER]
    if strange:
        entry = next(iter(headmap.coords[strange[0]]), 0)
        raise ValueError(
            f"This map has the dims {', '.join(headmap.dims)}; a picture shows {', '.join(_ORDER)} and metric. "
            f"Pick an entry of the others first, such as .sel({strange[0]}={entry!r})."
        )
    if not headmap.dims or 0 in headmap.values.shape:
        shape = ", ".join(f"{dim} {size}" for dim, size in zip(headmap.dims, headmap.values.shape, strict=True))
        raise ValueError(
            f"This map has {shape or 'no dims'}; a picture needs one entry or more of layer or another dim, so leave "
            "some in .sel(...), as in .sel(layer=[22, 23])."
        )
    order = tuple(dim for dim in _ORDER if dim in headmap.dims)
    heads = tuple(dim for dim in order if dim in ("layer", "head", "heads"))
    places = order[len(heads) :]
    if len(places) > 2:
        raise ValueError(
            f"This map has the dims {', '.join(headmap.dims)}; a picture shows pos, or query and key. Pick an entry of "
            f"one first, such as .sel({places[0]}={headmap.coords[places[0]][0]!r})."
        )
    together = not heads or len(heads) + len(places) <= 2
    outer, inner = (order, ()) if together else (heads, places)
    return Picture(_transposed(headmap, order), outer, inner)


def _transposed(headmap: HeadMap, order: tuple[str, ...]) -> HeadMap:
    # the map itself remembers its interval, which a copy would work out again
    if order == headmap.dims:
        return headmap
    axes = [headmap.dims.index(dim) for dim in order]
    samples = headmap.samples
    if samples is not None:
        samples = samples.transpose(0, *(axis + 1 for axis in axes))
    return replace(headmap, dims=order, values=headmap.values.transpose(axes), samples=samples)
