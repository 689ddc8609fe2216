"""MapView: a head map in a notebook, and as a page: the map, its strongest heads, the entries of the chosen one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from headlens.analyses.headmap import HeadMap
from headlens.page_data import page_data
from headlens.page_text import guide, in_words, provenance, size, table
from headlens.pictures import Picture, by_metric, interval_of, pictures
from headlens.views.map_svg import map_svg
from headlens.views.page import About
from headlens.views.widget import View

# Numbers of a map, with the ends of intervals, from which on they travel as bytes.
_MANY = 10_000


class MapView(View):
    """A map of any dims that `headlens.pictures` lays out; a dim metric or task makes a map each, with a button.

    `selected` is a cell as [row, column] indices, or None before one is chosen. `order` says how the heads of each
    layer lie: by "head", or by "effect", the most positive first. For the difference of two maps, see
    `headlens.analyses.difference`.

    Raises:
        ValueError: for a map of other dims, one that holds infinite numbers, and traits set to what is not there.
    """

    modules = ("heatmap.js",)

    data = traitlets.Dict().tag(sync=True)
    numbers = traitlets.Bytes().tag(sync=True)
    selected = traitlets.List(traitlets.Int(), None, allow_none=True, minlen=2, maxlen=2).tag(sync=True)
    order = traitlets.Enum(("head", "effect"), "head").tag(sync=True)

    def __init__(self, headmap: HeadMap, **traits: Any) -> None:
        self.headmap, self.pictures = headmap, _pictures(headmap)
        data = {**page_data(self.pictures), "by": "task" if "task" in headmap.dims else "metric"}
        numbers = b""
        count = 3 * len(self.pictures) * self.first.headmap.values.size
        if count > _MANY:
            numbers = _numbers(self.pictures)
            data["parts"] = [_without_numbers(part) for part in data["parts"]]
        super().__init__(data=data, numbers=numbers, **traits)

    @property
    def first(self) -> Picture:
        """The picture that is shown at first."""
        return next(iter(self.pictures.values()))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the board; bars are rows of one column."""
        rows, *columns = (len(self.first.headmap.coords[dim]) for dim in self.first.outer)
        return rows, columns[0] if columns else 1

    @property
    def label(self) -> str | None:
        """The name of the selected cell, such as "L23H3"."""
        if self.selected is None:
            return None
        return self.first.at_peaks.label(self.selected[: len(self.first.outer)])

    def fallback(self) -> str:
        return map_svg(self.first, next(iter(self.pictures)))

    def about(self) -> About:
        first, headmap = self.first, self.headmap
        prompts = 0 if headmap.samples is None else len(headmap.samples)
        several = f", {len(self.pictures)} {self.data['by']}s" if len(self.pictures) > 1 else ""
        return About(
            title=headmap.name,
            made=size(first) + several + (f"; {prompts} prompts" if prompts > 1 else ""),
            said=f'{in_words(headmap)}<p class="guide">{guide(self.pictures)}</p>\n',
            tables="".join(table(picture, name) for name, picture in self.pictures.items()),
            origin=provenance(headmap.provenance),
            styles=self.styles,
        )

    @traitlets.validate("selected")
    def _inside(self, proposal: Any) -> list[int] | None:
        at = proposal["value"]
        if at is not None and not all(0 <= one < count for one, count in zip(at, self.shape, strict=True)):
            raise ValueError(f"selected={at} was given; expected [row, column] inside {self.shape}, from 0.")
        return at


def _pictures(headmap: HeadMap) -> dict[str, Picture]:
    if "task" not in headmap.dims or 0 in headmap.values.shape:
        return pictures(headmap)
    found: dict[str, Picture] = {}
    for task in headmap.coords["task"]:
        for metric, part in by_metric(headmap.sel(task=task)).items():
            (picture,) = pictures(part).values()
            found[f"{task}, {metric}" if metric else str(task)] = picture
    return found


def _numbers(by_name: Mapping[str, Picture]) -> bytes:
    """Values and the ends of their intervals as float32 [part, (value, low, high), cell]; NaN is missing."""
    rows = []
    for picture in by_name.values():
        values, interval = picture.headmap.values, interval_of(picture.headmap)
        missing = np.full(values.shape, np.nan)
        rows += [values, *((missing, missing) if interval is None else (interval.low, interval.high))]
    return np.stack(rows).astype("<f4").tobytes()


def _without_numbers(part: Mapping[str, Any]) -> dict[str, Any]:
    return {**part, "values": None, "low": None, "high": None, "step": 10.0 ** -((part["digits"] or 0) + 2)}
