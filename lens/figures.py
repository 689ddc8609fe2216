"""Head maps as plotly figures."""

import textwrap
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, reach, shown
from headlens.pictures import Picture, interval_of, pictures, title_of
from headlens.token_labels import described, token_labels

if TYPE_CHECKING:
    from plotly.basedatatypes import BaseTraceType
    from plotly.graph_objects import Figure

# Blue and orange stay apart in every common kind of colour blindness, and in grey by their depth.
_BLUE_TO_ORANGE = [(0.0, "#11457e"), (0.25, "#7fa3cc"), (0.5, "#f5f4f1"), (0.75, "#e39a6b"), (1.0, "#a8380a")]
_NEGATIVE, _POSITIVE, _MISSING = "#3f6a9c", "#c2633a", "#c9c9c9"
_PIXELS_PER_ROW, _PIXELS_PER_COLUMN = 22, 36


def figure(headmap: HeadMap) -> "Figure":
    """The map with layer 0 on top and a colour scale that is symmetric about 0, or bars; what is missing is grey.

    `headlens.pictures` says which dims span the figure. With more, as in (layer, head, query, key), each cell is at its
    largest magnitude, and the title says so; .sel(layer=23, head=3) shows all of one head. A map of several metrics has
    a menu of them. ValueError for a map of other dims.
    """
    from plotly.graph_objects import Figure

    by_metric = pictures(headmap)
    first = next(iter(by_metric.values()))
    drawn = Figure([_trace(picture, visible=picture is first) for picture in by_metric.values()])
    titles = [_title(picture, metric) for metric, picture in by_metric.items()]
    rows, columns = first.outer[0], first.outer[1] if len(first.outer) > 1 else None
    drawn.update_yaxes(title=title_of(rows), autorange="reversed", **_ticks(first.headmap, rows))
    if columns is None:
        drawn.update_xaxes(title=_wrapped(headmap.units, 60), zeroline=True)
    else:
        drawn.update_xaxes(title=title_of(columns), **_ticks(first.headmap, columns))
    width = 12 if columns is None else len(first.headmap.coords[columns])
    drawn.update_layout(
        title=titles[0],
        plot_bgcolor="white" if columns is None else _MISSING,
        width=min(1200, 300 + _PIXELS_PER_COLUMN * width),
        height=min(1400, 230 + _PIXELS_PER_ROW * len(first.headmap.coords[rows])),
        updatemenus=[_menu(by_metric, titles)] if len(by_metric) > 1 else [],
    )
    return drawn


def _trace(picture: Picture, visible: bool) -> "BaseTraceType":
    """A heat map or bars, which say each value and its interval under the pointer."""
    from plotly.graph_objects import Bar, Heatmap

    flat = picture.at_peaks
    words = np.array([escape(word) for word in _labelled(picture)], object).reshape(flat.values.shape)
    hover = {"hovertemplate": "%{text}<extra></extra>", "visible": visible}
    if flat.values.ndim == 1:
        interval = interval_of(flat)
        ends = (
            {} if interval is None else {"array": interval.high - flat.values, "arrayminus": flat.values - interval.low}
        )
        return Bar(
            x=flat.values,
            y=np.arange(len(flat.values)),
            orientation="h",
            marker={"color": [_NEGATIVE if value < 0 else _POSITIVE for value in flat.values]},
            error_x={"type": "data", "symmetric": False, "color": "#1b1f24", "thickness": 1.2, "width": 3, **ends},
            text=words,
            textposition="none",
            **hover,
        )
    bound = reach(flat)
    return Heatmap(
        z=flat.values,
        text=np.where(np.isnan(flat.values), "", words),
        hoverongaps=False,
        zmin=-bound,
        zmax=bound,
        colorscale=_BLUE_TO_ORANGE,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": _wrapped(flat.units, 40), "side": "right"}, "outlinewidth": 0},
        **hover,
    )


def _labelled(picture: Picture) -> list[str]:
    """What to say of each cell, in order: "L23H3@9 “John”: 0.44 [0.39, 0.48]", with the interval where there is one."""
    headmap, interval = picture.headmap, interval_of(picture.at_peaks)
    digits = decimals(reach(headmap))
    tokens = [token_labels(headmap, dim) or [] for dim in headmap.dims]
    cells = np.stack(np.unravel_index(picture.peaks, headmap.values.shape), 1).tolist()
    values = picture.at_peaks.values.reshape(-1).tolist()
    ends = [("", "")] * len(values)
    if interval is not None:
        ends = [
            (shown(low, digits), shown(high, digits)) if low == low else ("", "")
            for low, high in zip(interval.low.reshape(-1).tolist(), interval.high.reshape(-1).tolist(), strict=True)
        ]
    words = []
    for cell, value, (low, high) in zip(cells, values, ends, strict=True):
        text = described([labels[place] for labels, place in zip(tokens, cell, strict=True) if labels])
        brackets = f" [{low}, {high}]" if low and value == value else ""
        words.append(f"{f'{headmap.label(cell)} {text}'.strip()}: {shown(value, digits)}{brackets}")
    return words


def _title(picture: Picture, metric: str) -> str:
    heading = f"{picture.headmap.name}: {metric}" if metric else picture.headmap.name
    notes = []
    if picture.inner:
        places = " and ".join(title_of(dim) for dim in picture.inner)
        notes.append(f"each {picture.noun} at the {places} of its largest magnitude")
    if np.isnan(picture.at_peaks.values).any():
        notes.append("missing: no bar" if len(picture.outer) == 1 else "grey: missing")
    small = f"<br><sup>{escape('; '.join(notes))}</sup>" if notes else ""
    return _wrapped(heading, 60) + small


def _menu(by_metric: Mapping[str, Picture], titles: list[str]) -> dict[str, Any]:
    """A menu above the figure that shows one metric's picture and hides the others."""
    buttons = [
        {
            "label": escape(metric),
            "method": "update",
            "args": [{"visible": [other == metric for other in by_metric]}, {"title.text": title}],
        }
        for metric, title in zip(by_metric, titles, strict=True)
    ]
    return {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}


def _ticks(headmap: HeadMap, dim: str) -> dict[str, Any]:
    labels, tokens = [str(label) for label in headmap.coords[dim]], token_labels(headmap, dim)
    # at most 32 labels on an axis without tokens, so that they do not run into each other; tokens stand upright
    every = -(-len(labels) // (32 if tokens is None else 64))
    at = range(0, len(labels), every)
    texts = labels if tokens is None else [f"{tokens[i][0]} {label}".strip() for i, label in enumerate(labels)]
    upright = {"tickangle": -90} if tokens is not None and dim != headmap.dims[0] else {}
    ticks = {"tickvals": [*at], "ticktext": [escape(texts[i]) for i in at], "showgrid": False, "zeroline": False}
    return {**ticks, **upright}


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(escape(line) for line in textwrap.wrap(text, width, break_on_hyphens=False))
