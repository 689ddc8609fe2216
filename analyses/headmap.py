"""HeadMap: a number per attention head, with what it was measured on, in which units, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.arrays import load_arrays, save_arrays
from headlens.analyses.uncertainty import Interval, ratio_interval, ratio_of_means

if TYPE_CHECKING:
    import pandas
    import xarray

DIMS = ("layer", "head", "heads", "pos", "query", "key", "task", "metric")
FORMAT = "headlens-headmap/1"
_PREFIX = {"layer": "L", "head": "H", "pos": "@", "query": " q", "key": " k"}


@dataclass(frozen=True, eq=False)
class HeadMap:
    """Values over dims such as (layer, head), float32, NaN where missing. A value: nothing in it can be changed.

    `samples` [prompt, *dims] are the prompts' own numbers in the metric's units and `scale` what they are divided by:
    [prompt], or [prompt, metric] where metric is the last dim, since each metric has its own. `values` = mean of
    samples / mean of scale. `clusters` has one label per prompt, and prompts that share one are resampled together.
    `coords` names each entry of a dim (default 0, 1, 2 ...). `sign` says what a positive value means, `provenance`
    what the map was made from.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    name: str
    units: str
    sign: str
    coords: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    samples: np.ndarray | None = None
    scale: np.ndarray | None = None
    clusters: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    # a map never changes, so an interval is computed once
    _intervals: dict[tuple[float, int], Interval] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _frozen(self.values))
        _check_dims(self.dims, self.values.shape)
        default = {dim: tuple(range(size)) for dim, size in zip(self.dims, self.values.shape, strict=True)}
        coords = {dim: tuple(_plain(label) for label in self.coords.get(dim, default[dim])) for dim in self.dims}
        for dim, labels in coords.items():
            if len(labels) != len(default[dim]):
                raise ValueError(f"Dim {dim!r} has {len(default[dim])} entries and {len(labels)} coords.")
        object.__setattr__(self, "coords", coords)
        if self.samples is None:
            # both describe samples
            object.__setattr__(self, "scale", None)
            object.__setattr__(self, "clusters", ())
            return
        samples = _frozen(self.samples)
        over_metrics = _over_metrics(self.dims)
        scale_shape = (len(samples), *self.values.shape[-1:]) if over_metrics else (len(samples),)
        scale = _frozen(np.ones(scale_shape) if self.scale is None else self.scale)
        if over_metrics and scale.shape == scale_shape[:1]:
            # one number a prompt serves every metric
            scale = _frozen(np.broadcast_to(scale[:, None], scale_shape))
        clusters = tuple(self.clusters) or tuple(f"prompt {prompt}" for prompt in range(len(samples)))
        if samples.shape[1:] != self.values.shape or scale.shape != scale_shape or len(clusters) != len(samples):
            metric = ", metric" if over_metrics else ""
            raise ValueError(
                f"Samples {samples.shape}, scale {scale.shape} and {len(clusters)} clusters do not go with values "
                f"{self.values.shape}; expected samples [prompt, {', '.join(self.dims)}], scale [prompt{metric}] and "
                "a cluster for each prompt."
            )
        for key, value in {"samples": samples, "scale": scale, "clusters": clusters}.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_samples(cls, samples: np.ndarray, scale: np.ndarray | None = None, **fields: Any) -> "HeadMap":
        """A map whose values are mean of samples / mean of scale, per cell over the prompts that are not NaN there."""
        divisor = np.ones(len(samples), np.float32) if scale is None else scale
        return cls(values=ratio_of_means(samples, divisor), samples=samples, scale=divisor, **fields)

    def ci(self, level: float = 0.95, seed: int = 0) -> Interval:
        """Bootstrap interval of every value (`.low`, `.high`), resampling clusters of prompts.

        ValueError for a map without samples.
        """
        if self.samples is None or self.scale is None:
            raise ValueError(f"The map {self.name!r} keeps no samples, so it has no interval.")
        if (level, seed) not in self._intervals:
            interval = ratio_interval(self.samples, self.scale, self.clusters, level, seed=seed)
            self._intervals[level, seed] = interval
        return self._intervals[level, seed]

    def p_values(self, seed: int = 0) -> np.ndarray:
        """How likely each value is to come out this far from 0 if the cell does nothing: see `significance.py`."""
        from headlens.analyses.significance import sign_flip_p_values

        return sign_flip_p_values(self, seed=seed)

    def significant(self, q: float = 0.05) -> np.ndarray:
        """Which cells differ from 0, of which a share of q is expected to be false: see `significance.py`."""
        from headlens.analyses.significance import significant

        return significant(self, q)

    def stability(self, k: int) -> "HeadMap":
        """The share of resamples in which each cell is among the k largest by magnitude: see `stability.py`."""
        from headlens.analyses.stability import stability

        return stability(self, k)

    def sel(self, **where: int | str | Sequence[int | str]) -> "HeadMap":
        """The part at these coords: `sel(layer=23)` drops the dim, `sel(layer=[22, 23])` keeps it.

        A metric comes with its own scale: `sel(metric="logit_diff")` is the map of that metric alone.

        ValueError for a dim or a coord that the map does not have.
        """
        part = self
        for dim, wanted in where.items():
            if dim not in part.dims:
                raise ValueError(f"This map has no dim {dim!r}; its dims are {', '.join(part.dims)}.")
            part = part._sel_one(dim, wanted)
        return part

    def _sel_one(self, dim: str, wanted: Any) -> "HeadMap":
        single = isinstance(wanted, int | str | np.integer)
        labels, axis = self.coords[dim], self.dims.index(dim)
        chosen = [wanted] if single else list(wanted)
        for label in chosen:
            if label not in labels:
                raise ValueError(f"There is no {dim} {label!r}; this map has {dim} {labels[0]} to {labels[-1]}.")
        rows = [labels.index(label) for label in chosen]
        index: Any = rows[0] if single else rows
        scale, provenance = self.scale, self.provenance
        if dim == "metric":
            if scale is not None and _over_metrics(self.dims):
                scale = np.take(scale, index, 1)
            provenance = {**provenance, "metric": chosen[0] if single else chosen}
        return replace(
            self,
            values=np.asarray(np.take(self.values, index, axis)),
            samples=None if self.samples is None else np.take(self.samples, index, axis + 1),
            scale=scale,
            provenance=provenance,
            dims=tuple(d for d in self.dims if d != dim or not single),
            coords={d: tuple(chosen) if d == dim else c for d, c in self.coords.items() if d != dim or not single},
        )

    def label(self, cell: Sequence[int]) -> str:
        """A cell's name: "L23H3", "L23H3@9", "L23H3@S2", "L23", "L23H3 q13 k9", "L23H3 logit_diff"."""
        at = dict(zip(self.dims, cell, strict=True))
        return "".join(f"{_PREFIX.get(dim, ' ')}{self.coords[dim][at[dim]]}" for dim in DIMS if dim in at).strip()

    def top(self, k: int = 10, level: float = 0.95) -> "pandas.DataFrame":
        """The k cells of largest magnitude, largest first: label, dims, value, and the interval where there is one."""
        order = np.argsort(-np.abs(self.values), axis=None, kind="stable")
        present = order[~np.isnan(self.values.reshape(-1)[order])][:k]
        return self.to_frame(level).iloc[present].reset_index(drop=True)

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per cell: label, a column per dim, value, and low and high where there are two prompts or more."""
        import pandas

        cells = list(np.ndindex(self.values.shape))
        columns: dict[str, Any] = {"label": [self.label(cell) for cell in cells]}
        for axis, dim in enumerate(self.dims):
            columns[dim] = [self.coords[dim][cell[axis]] for cell in cells]
        columns["value"] = self.values.reshape(-1)
        if self.samples is not None and len(self.samples) > 1:
            interval = self.ci(level)
            columns |= {"low": interval.low.reshape(-1), "high": interval.high.reshape(-1)}
        return pandas.DataFrame(columns)

    def to_xarray(self) -> "xarray.DataArray":
        """The values as an xarray DataArray, with units, sign and provenance as attributes."""
        try:
            import xarray
        except ImportError as error:
            raise ValueError("to_xarray() needs the package xarray; `pip install xarray` brings it.") from error

        about = {"units": self.units, "sign": self.sign, **self.provenance}
        coords = {dim: [*labels] for dim, labels in self.coords.items()}
        return xarray.DataArray(self.values, dims=self.dims, coords=coords, name=self.name, attrs=about)

    def save(self, path: str | Path) -> None:
        """Write the whole map to one safetensors file, atomically. Equal maps make equal bytes."""
        arrays = {"values": self.values}
        if self.samples is not None and self.scale is not None:
            arrays |= {"samples": self.samples, "scale": self.scale}
        save_arrays(Path(path), arrays, {"format": FORMAT, **self.described()})

    @classmethod
    def load(cls, path: str | Path) -> "HeadMap":
        """Read what `save` wrote. ValueError for a damaged file or one of another kind."""
        arrays, about = load_arrays(Path(path))
        if about.pop("format", None) != FORMAT or "values" not in arrays:
            raise ValueError(f"{path} holds no HeadMap of the format {FORMAT!r}.")
        return cls.from_described(about, **arrays)

    def described(self) -> dict[str, Any]:
        """Everything but the numbers, as plain values."""
        return {
            "name": self.name,
            "units": self.units,
            "sign": self.sign,
            "dims": [*self.dims],
            "coords": {dim: [*labels] for dim, labels in self.coords.items()},
            "clusters": [*self.clusters],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_described(cls, about: Mapping[str, Any], **arrays: np.ndarray) -> "HeadMap":
        """The map of a description that `described` made, and its arrays."""
        tuples = {key: tuple(about[key]) for key in ("dims", "clusters")}
        fields: dict[str, Any] = {**about, **tuples, **arrays}
        return cls(**fields)

    def __repr__(self) -> str:
        shape = ", ".join(f"{dim} {size}" for dim, size in zip(self.dims, self.values.shape, strict=True))
        prompts = "" if self.samples is None else f", {len(self.samples)} prompts"
        return f"HeadMap({self.name!r}: {shape}{prompts})"


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, np.float32)
    copy.setflags(write=False)
    return copy


def _over_metrics(dims: tuple[str, ...]) -> bool:
    """Whether each metric has a scale of its own."""
    return dims[-1:] == ("metric",)


def _plain(label: Any) -> int | str:
    return int(label) if isinstance(label, np.integer) else label


def _check_dims(dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(dims) != len(shape):
        raise ValueError(f"Values of shape {shape} have {len(shape)} axes, but {len(dims)} dims were named.")
    unknown = [dim for dim in dims if dim not in DIMS]
    if unknown or len(set(dims)) < len(dims):
        raise ValueError(f"The dims {dims} were given; expected each at most once out of {', '.join(DIMS)}.")
