"""Gazes as one HTML page that needs no network and no other file: pictures with attention over them, word by word."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from headlens import __version__
from headlens.analyses.atomic import write_text
from headlens.analyses.vision.gaze import Gaze
from headlens.gaze_data import gaze_data
from headlens.hooks.sites import Head
from headlens.javascript import module
from headlens.page_safety import ESCAPES, policy
from headlens.page_text import provenance
from headlens.report import boot

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="headlens {version}">
<title>Gaze: {model}</title>
<style>{css}</style>
</head>
<body class="headlens-report">
<header>
<h1>Where heads look</h1>
<p class="made">{model}, {size}</p>
{words}<p class="guide">{guide}</p>
</header>
<main>
<div id="map"></div>
<noscript>{tables}<p>The pictures themselves need scripts; they are in this file and load nothing.</p></noscript>
</main>
<section>
<h2>What it was made from</h2>
{provenance}
</section>
<footer>Made by headlens {version}. This file is complete: it loads nothing from anywhere.</footer>
<script type="application/json" id="data">{data}</script>
<script type="text/plain" id="module">{module}</script>
<script type="module">{boot}</script>
</body>
</html>
"""
_BOOT = boot("module", {"token": None, "head": None})
_GUIDE = (
    "Choose a word to see where the model looked with it, and a head on the board. A word of the prompt has its own "
    "row of attention; a word of the answer has the row in front of it, which is the one that says it, so the first "
    "word of the answer has the numbers of the prompt's last. The more orange a patch, the more of the row's "
    "attention it gets{together}; the patch with most has an outline. Attention shows where a head reads from, and is "
    "no evidence of what it takes from there."
)


def write_gaze_report(
    gazes: Mapping[str, Gaze],
    pictures: Sequence[np.ndarray],
    path: str | Path,
    *,
    prompt: str = "",
    heads: Sequence[Head] | None = None,
    words: Sequence[str] = (),
) -> Path:
    """Write `gaze_html` to a file, atomically, and return its path."""
    target = Path(path)
    write_text(target, gaze_html(gazes, pictures, prompt=prompt, heads=heads, words=words))
    return target


def gaze_html(
    gazes: Mapping[str, Gaze],
    pictures: Sequence[np.ndarray],
    *,
    prompt: str = "",
    heads: Sequence[Head] | None = None,
    words: Sequence[str] = (),
) -> str:
    """The page of gazes of one prompt, by what they are called ("" for one alone). Equal gazes make equal pages.

    `pictures` are those of the prompt as the model saw them, `heads` the ones whose patches are shown (without them
    those that look most, as many as fit), `words` what is said of the run. ValueError as for `gaze_data`.
    """
    data = gaze_data(gazes, pictures, heads)
    css = "".join(files("headlens").joinpath("static", name).read_text() for name in ("report.css", "gaze.css"))
    first = next(iter(gazes.values()))
    said = [f"Prompt: {prompt}" if prompt else "", *(_answer(name, one) for name, one in gazes.items()), *words]
    every = data["layers"] * data["heads"]
    return _PAGE.format(
        policy=policy(css, _BOOT, images=True),
        version=__version__,
        model=escape(str(first.provenance.get("model", "a model"))),
        size=f"{data['layers']} layers, {data['heads']} heads, {_patches(first)}",
        css=css,
        words=f'<p class="guide">{"<br>".join(escape(line) for line in said if line)}</p>\n',
        guide=_GUIDE.format(together=", on one scale before and after" if len(gazes) > 1 else "")
        + _left_out(len(data["kept"]), every),
        tables="".join(_table(part) for part in data["parts"]),
        provenance=provenance({name or "gaze": one.provenance for name, one in gazes.items()}),
        data=json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":")).translate(ESCAPES),
        module=module("gaze.js"),
        boot=_BOOT,
    )


def _answer(name: str, gaze: Gaze) -> str:
    return f"{f'Answer {name}' if name else 'Answer'}: {gaze.answer}"


def _patches(gaze: Gaze) -> str:
    grids = " and ".join(f"{grid.rows} x {grid.columns}" for grid in gaze.grids)
    return f"{grids} patches"


def _left_out(kept: int, every: int) -> str:
    if kept == every:
        return ""
    return (
        f" Patches are on this page for {kept} of {every} heads, those that look most at the image over the answer or "
        "were asked for; the share on the image is there for all of them, and the patches are in gaze files."
    )


def _table(part: Mapping[str, Any]) -> str:
    """The heads that look most, for readers without scripts."""
    of_part = f", {escape(part['name'])}" if part["name"] else ""
    rows = "".join(f'<tr><td>{row["label"]}</td><td class="number">{row["share"]:.1%}</td></tr>' for row in part["top"])
    return (
        f"<table><caption>Share of attention on the image over the answer{of_part}</caption><thead><tr>"
        f'<th scope="col">head</th><th scope="col" class="number">share</th></tr></thead><tbody>{rows}</tbody></table>'
    )
