"""A head map as one HTML page that needs no network and no other file: the map, its strongest heads, what it is."""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from headlens import __version__
from headlens.analyses.atomic import write_text
from headlens.analyses.headmap import HeadMap
from headlens.analyses.headmap_json import as_lists
from headlens.analyses.uncertainty import Interval
from headlens.figures import decimals, grid, reach, shown

_TOP = 15
_SHORT = 24
# Inside a script element only the end of that element matters; the last two end a line in some JavaScript.
_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}

# The module is an anywidget, here with a model that nobody else listens to. A blob is how a page can import a module
# that it carries itself.
_BOOT = """
const text = (id) => document.getElementById(id).textContent;
const traits = { data: JSON.parse(text("data")), selected: null };
const model = {
  get: (name) => traits[name],
  set: (name, value) => { traits[name] = value; },
  save_changes() {}, on() {}, off() {},
};
const el = document.getElementById("map");
try {
  const url = URL.createObjectURL(new Blob([text("heatmap")], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  widget.render({ model, el });
} catch (error) {
  el.textContent = `This viewer would not run the page's script (${error}); open the file in a browser.`;
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="headlens {version}">
<title>{name}: {size}</title>
<style>{css}</style>
</head>
<body class="headlens-report">
<header>
<h1>{name}</h1>
<p class="made">{size}{prompts}</p>
<p class="guide">{guide}</p>
</header>
<main>
<div id="map"></div>
<noscript>{table}<p>The map itself needs scripts; they are in this file and load nothing.</p></noscript>
</main>
<section>
<h2>What it was made from</h2>
{provenance}
</section>
<footer>Made by headlens {version}. This file is complete: it loads nothing from anywhere.</footer>
<script type="application/json" id="data">{data}</script>
<script type="text/plain" id="heatmap">{module}</script>
<script type="module">{boot}</script>
</body>
</html>
"""


def write_report(headmap: HeadMap, path: str | Path) -> Path:
    """Write `report_html` to a file, atomically, and return its path."""
    target = Path(path)
    write_text(target, report_html(headmap))
    return target


def report_html(headmap: HeadMap) -> str:
    """The page for a map of layers and heads, with or without positions. Equal maps make equal pages.

    ValueError for a map of other dims, or one that holds infinite numbers.
    """
    flat = grid(headmap)
    prompts = 0 if flat.samples is None else len(flat.samples)
    interval = flat.ci() if prompts > 1 else None
    css, module = (files("headlens").joinpath("static", name).read_text() for name in ("report.css", "heatmap.js"))
    data = json.dumps(map_data(flat, interval), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return _PAGE.format(
        policy=_policy(css, _BOOT),
        version=__version__,
        name=escape(flat.name),
        size=", ".join(_counted(size, dim) for dim, size in zip(flat.dims, flat.values.shape, strict=True)),
        prompts=f"; {prompts} prompts" if prompts > 1 else "",
        css=css,
        guide=_guide(flat, interval),
        table=_table(flat, interval),
        provenance=_provenance(flat.provenance) if flat.provenance else "<p>This map does not say.</p>",
        data=data.translate(_ESCAPES),
        module=module,
        boot=_BOOT,
    )


def map_data(headmap: HeadMap, interval: Interval | None) -> dict[str, Any]:
    """What `static/heatmap.js` draws, as plain values, from a map of (layer, head) or (layer, head, pos)."""
    bound = reach(headmap)
    return {
        "layers": [str(label) for label in headmap.coords["layer"]],
        "heads": [str(label) for label in headmap.coords["head"]],
        "positions": [str(label) for label in headmap.coords["pos"]] if "pos" in headmap.dims else None,
        "values": as_lists(headmap.values, "values"),
        "low": None if interval is None else as_lists(interval.low, "low"),
        "high": None if interval is None else as_lists(interval.high, "high"),
        "level": None if interval is None else interval.level,
        "bound": bound,
        "digits": decimals(bound),
        "top": _TOP,
        "units": headmap.units,
    }


def _counted(count: int, dim: str) -> str:
    return f"{count} {'position' if dim == 'pos' else dim}{'' if count == 1 else 's'}"


def _policy(css: str, script: str) -> str:
    """Nothing from the network, and no script or style but the page's own, known by their digests."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    return (
        f"default-src 'none'; script-src 'sha256-{code}' blob:; style-src 'sha256-{style}'; base-uri 'none'; "
        "form-action 'none'"
    )


def _guide(headmap: HeadMap, interval: Interval | None) -> str:
    """The paragraph that says how to read the page, as HTML."""
    cells = headmap.values.shape[0] * headmap.values.shape[1]
    says = [
        "Each cell is one attention head: rows are layers, with the one nearest the input on top, and columns are the "
        f"heads of a layer. The number is the {escape(headmap.name)}, in units of: "
        f"{escape(headmap.units.rstrip('.'))}. {escape(headmap.sign.rstrip('.'))}. Orange is positive, blue is "
        "negative, and both reach equally far from 0, which has the colour of the middle of the scale."
    ]
    if "pos" in headmap.dims:
        says.append(
            "Every head was measured at every position; “strongest” shows each head at its position of largest "
            "magnitude, named after the @, which was picked after looking and so flatters the head a little."
        )
    if interval is not None:
        says.append(
            f"Brackets hold the {interval.level:.0%} interval of a value: {escape(interval.method)}. It says how far "
            "the value could have come out otherwise with other prompts of this kind, for one head at a time: among "
            f"{cells} heads, some lie outside theirs by chance."
        )
    elif headmap.samples is not None:
        says.append("It was measured on a single prompt, so nothing can be said about other prompts.")
    else:
        says.append("The numbers of the single prompts were not kept, so there is no interval.")
    return " ".join(says)


def _table(headmap: HeadMap, interval: Interval | None) -> str:
    """The largest cells as a table, for readers without scripts."""
    top, digits = headmap.top(_TOP), decimals(reach(headmap))
    bounds = "" if interval is None else f'<th scope="col" class="number">{interval.level:.0%} interval</th>'
    rows = []
    for row in top.to_dict("records"):
        ends = "" if interval is None else f"[{shown(row['low'], digits)}, {shown(row['high'], digits)}]"
        cells = [shown(row["value"], digits), *([ends] if ends else [])]
        rows.append(f"<tr><td>{escape(row['label'])}</td>" + "".join(f'<td class="number">{c}</td>' for c in cells))
    return (
        f"<table><caption>The {len(rows)} largest by magnitude</caption><thead><tr>"
        f'<th scope="col">head</th><th scope="col" class="number">value</th>{bounds}</tr></thead><tbody>'
        + "".join(f"{row}</tr>" for row in rows)
        + "</tbody></table>"
    )


def _provenance(value: Any) -> str:
    """Nested plain values as nested lists of terms, as HTML."""
    if isinstance(value, Mapping):
        terms = (f"<dt>{escape(str(key))}</dt><dd>{_provenance(part)}</dd>" for key, part in value.items())
        return f"<dl>{''.join(terms)}</dl>" if value else "none"
    if isinstance(value, list | tuple):
        # commas part short entries only: long ones have commas of their own
        if any(isinstance(part, Mapping | list | tuple) or len(str(part)) > _SHORT for part in value):
            return f"<ol>{''.join(f'<li>{_provenance(part)}</li>' for part in value)}</ol>"
        return ", ".join(_provenance(part) for part in value) or "none"
    plain = {None: "none", True: "yes", False: "no"} if value is None or isinstance(value, bool) else {}
    return escape(str(plain.get(value, value)))
