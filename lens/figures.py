"""Head maps as plotly figures, and what every picture of a map shares: its grid, its range and its wording."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.headmap import HeadMap

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Blue and orange stay apart in every common kind of colour blindness, and in grey by their depth.
_BLUE_TO_ORANGE = [(0.0, "#11457e"), (0.25, "#7fa3cc"), (0.5, "#f5f4f1"), (0.75, "#e39a6b"), (1.0, "#a8380a")]
_MISSING = "#c9c9c9"
_DIMS = ("layer", "head", "pos")
_PIXELS_PER_LAYER, _PIXELS_PER_HEAD = 22, 36


def view(headmap: Any) -> "Figure":
    """Show a map of layers and heads. ValueError for anything else than a HeadMap, or for one of other dims."""
    if not isinstance(headmap, HeadMap):
        raise ValueError(
            f"A {type(headmap).__name__} was given; view() shows a HeadMap, such as hl.patch_sweep returns."
        )
    return heatmap(headmap)


def heatmap(headmap: HeadMap) -> "Figure":
    """The map with layer 0 on top and a colour scale that is symmetric about 0; what is missing is grey.

    A map with positions shows each head at the position of its largest magnitude, and its title says so.
    ValueError for a map of other dims.
    """
    from plotly.graph_objects import Figure, Heatmap

    flat = grid(headmap)
    values, title = flat.values, [flat.name]
    words = np.array([escape(word) for word in labelled(flat)], object).reshape(values.shape)
    if "pos" in flat.dims:
        chosen = strongest(values)[..., None]
        values = np.take_along_axis(values, chosen, -1)[..., 0]
        words = np.take_along_axis(words, chosen, -1)[..., 0]
        title.append("each head at the position of its largest magnitude")
    missing = np.isnan(values)
    if missing.any():
        title.append("grey: missing")
    bound = reach(flat)
    figure = Figure(
        Heatmap(
            z=values,
            text=np.where(missing, "", words),
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            zmin=-bound,
            zmax=bound,
            colorscale=_BLUE_TO_ORANGE,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": _wrapped(flat.units, 40), "side": "right"}, "outlinewidth": 0},
        )
    )
    layers, heads = (flat.coords[dim] for dim in _DIMS[:2])
    figure.update_xaxes(title="head", **_ticks(heads))
    figure.update_yaxes(title="layer", autorange="reversed", **_ticks(layers))
    heading, *notes = title
    small = f"<br><sup>{escape('; '.join(notes))}</sup>" if notes else ""
    figure.update_layout(
        title=_wrapped(heading, 60) + small,
        plot_bgcolor=_MISSING,
        width=min(1200, 300 + _PIXELS_PER_HEAD * len(heads)),
        height=min(1400, 190 + _PIXELS_PER_LAYER * len(layers)),
    )
    return figure


def grid(headmap: HeadMap) -> HeadMap:
    """The same map as (layer, head) or (layer, head, pos). ValueError for one that has other dims, or lacks these."""
    extra = [dim for dim in headmap.dims if dim not in _DIMS]
    if extra:
        entry = next(iter(headmap.coords[extra[0]]), 0)
        raise ValueError(
            f"This map has the dims {', '.join(headmap.dims)}; a picture shows layer and head, and pos if any. "
            f"Pick an entry of the others first, such as .sel({extra[0]}={entry!r})."
        )
    if not {"layer", "head"} <= set(headmap.dims) or 0 in headmap.values.shape:
        shape = ", ".join(f"{dim} {size}" for dim, size in zip(headmap.dims, headmap.values.shape, strict=True))
        raise ValueError(
            f"This map has {shape or 'no dims'}; a picture needs layer and head, so leave both whole in .sel(...), "
            "as in .sel(layer=[22, 23])."
        )
    order = tuple(dim for dim in _DIMS if dim in headmap.dims)
    axes = [headmap.dims.index(dim) for dim in order]
    samples = headmap.samples
    if samples is not None:
        samples = samples.transpose(0, *(axis + 1 for axis in axes))
    return replace(headmap, dims=order, values=headmap.values.transpose(axes), samples=samples)


def strongest(values: np.ndarray) -> np.ndarray:
    """The position of the largest magnitude for each cell of [layer, head, pos]; 0 where all are missing."""
    return np.where(np.isnan(values), -1, np.abs(values)).argmax(-1)


def labelled(headmap: HeadMap) -> list[str]:
    """What to say of each cell, in order: "L23H3: 0.44 [0.39, 0.48]", with the interval where there is one."""
    frame, digits = headmap.to_frame(), decimals(reach(headmap))
    words = []
    for cell in frame.to_dict("records"):
        ends = f" [{shown(cell['low'], digits)}, {shown(cell['high'], digits)}]" if "low" in cell else ""
        words.append(f"{cell['label']}: {shown(cell['value'], digits)}{ends if cell['value'] == cell['value'] else ''}")
    return words


def reach(headmap: HeadMap) -> float:
    """The largest magnitude in the map, which the colour scale spans on both sides of 0; 1 where there is none."""
    present = np.abs(headmap.values[np.isfinite(headmap.values)])
    return float(present.max(initial=0)) or 1.0


def decimals(bound: float) -> int | None:
    """How many decimals to show in a map of this reach; None where only powers of ten read well."""
    if not 1e-4 <= bound < 1e5:
        return None
    power = int(np.floor(np.log10(bound)))
    return max(2 - power, 0) if power >= 0 else 1 - power


def shown(number: float, digits: int | None) -> str:
    """A number in the words of a reader, with a true minus; "missing" for NaN."""
    if np.isnan(number):
        return "missing"
    if digits is None and number == 0:
        return "0"
    # adding 0 turns -0.0 into 0.0
    rounded = f"{number:.2e}" if digits is None else f"{round(float(number), digits) + 0.0:.{digits}f}"
    return rounded.replace("-", "\N{MINUS SIGN}")


def _ticks(labels: Sequence[int | str]) -> dict[str, Any]:
    # at most 32 labels on an axis, so that they do not run into each other
    every = -(-len(labels) // 32)
    at = range(0, len(labels), every)
    return {"tickvals": [*at], "ticktext": [escape(str(labels[i])) for i in at], "showgrid": False, "zeroline": False}


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(escape(line) for line in textwrap.wrap(text, width, break_on_hyphens=False))
