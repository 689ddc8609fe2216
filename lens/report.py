"""A head map as one HTML page that needs no network and no other file: the map, its strongest heads, what it is."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from headlens import __version__
from headlens.analyses.atomic import write_text
from headlens.analyses.headmap import HeadMap
from headlens.javascript import module
from headlens.page_data import page_data
from headlens.page_safety import ESCAPES, policy
from headlens.page_text import guide, in_words, provenance, size, table
from headlens.pictures import pictures

# The module is an anywidget, here with a model that nobody else listens to. A blob is how a page can import a module
# that it carries itself.
_BOOT = """
const text = (id) => document.getElementById(id).textContent;
const traits = { data: JSON.parse(text("data")), ...%s };
const model = {
  get: (name) => traits[name],
  set: (name, value) => { traits[name] = value; },
  save_changes() {}, on() {}, off() {},
};
const el = document.getElementById("map");
try {
  const url = URL.createObjectURL(new Blob([text("%s")], { type: "text/javascript" }));
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
{words}<p class="guide">{guide}</p>
</header>
<main>
<div id="map"></div>
<noscript>{tables}<p>The map itself needs scripts; they are in this file and load nothing.</p></noscript>
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
    """The page for a map of any dims that `headlens.pictures` lays out. Equal maps make equal pages.

    ValueError for a map of other dims, or one that holds infinite numbers.
    """
    by_metric = pictures(headmap)
    first = next(iter(by_metric.values()))
    prompts = 0 if headmap.samples is None else len(headmap.samples)
    css = files("headlens").joinpath("static", "report.css").read_text()
    data = json.dumps(page_data(by_metric), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return _PAGE.format(
        policy=policy(css, _MAP_BOOT),
        version=__version__,
        name=escape(headmap.name),
        size=size(first) + (f", {len(by_metric)} metrics" if len(by_metric) > 1 else ""),
        prompts=f"; {prompts} prompts" if prompts > 1 else "",
        css=css,
        words=in_words(headmap),
        guide=guide(by_metric),
        tables="".join(table(picture, metric) for metric, picture in by_metric.items()),
        provenance=provenance(headmap.provenance),
        data=data.translate(ESCAPES),
        module=module("heatmap.js"),
        boot=_MAP_BOOT,
    )


def boot(module: str, traits: Mapping[str, Any]) -> str:
    """The page's own script: it renders the module in the element of this id, with these traits beside the data."""
    return _BOOT % (json.dumps(dict(traits)), module)


_MAP_BOOT = boot("heatmap", {"selected": None})
