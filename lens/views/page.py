"""One HTML page of one or several widgets that needs no network and no other file: each runs as it does in a notebook.

A page carries the modules of static/ as text, and the traits of each widget as JSON, with bytes in base64. Nobody
listens behind a widget there, so it shows what it was given; widgets of a page can share traits, such as the head that
is selected.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from headlens import __version__
from headlens.javascript import module
from headlens.page_safety import ESCAPES, policy

# A blob is how a page can import a module that it carries itself.
_BOOT = """
const text = (id) => document.getElementById(id).textContent;
const { parts, shared } = JSON.parse(text("data"));
const fromBase64 = (coded) => new DataView(Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0)).buffer);
function modelOf({ traits, bytes }) {
  const heard = new Map();
  const kept = new Map(Object.entries(traits));
  for (const [name, coded] of Object.entries(bytes)) kept.set(name, fromBase64(coded));
  return {
    get: (name) => kept.get(name),
    set(name, value) {
      if (kept.get(name) === value) return;
      kept.set(name, value);
      for (const listener of [...(heard.get(`change:${name}`) ?? [])]) listener();
    },
    save_changes() {},
    on: (name, listener) => heard.set(name, [...(heard.get(name) ?? []), listener]),
    off: (name, listener) => heard.set(name, (heard.get(name) ?? []).filter((other) => other !== listener)),
  };
}
const models = parts.map(modelOf);
for (const name of shared) {
  const sharing = models.filter((model) => model.get(name) !== undefined);
  for (const model of sharing) {
    model.on(`change:${name}`, () => sharing.forEach((other) => other.set(name, model.get(name))));
  }
}
for (const [at, part] of parts.entries()) {
  const el = document.getElementById(`view-${at}`);
  try {
    const url = URL.createObjectURL(new Blob([text(part.module)], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    widget.render({ model: models[at], el });
  } catch (error) {
    el.textContent = `This viewer would not run the page's script (${error}); open the file in a browser.`;
  }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="headlens {version}">
<title>{title}{tab}</title>
<style>{css}</style>
</head>
<body class="headlens-report">
<header>
<h1>{title}</h1>
{made}{said}</header>
<main>
{views}<noscript>{tables}<p>The picture itself needs scripts; they are in this file and load nothing.</p></noscript>
</main>
{origin}<footer>Made by headlens {version}. This file is complete: it loads nothing from anywhere.</footer>
<script type="application/json" id="data">{data}</script>
{modules}<script type="module">{boot}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Part:
    """One widget of a page: a module of static/ with its traits, plain values or bytes, and a heading above it.

    It lies under the one before it, or `beside` it where the page is wide enough.
    """

    module: str
    traits: Mapping[str, Any]
    heading: str = ""
    beside: bool = False


@dataclass(frozen=True)
class About:
    """What a page says around its widgets: a title and a line as plain text, and the rest as HTML.

    `said` are paragraphs on top, `tables` what readers without scripts see, `origin` what it was made from.
    """

    title: str
    made: str = ""
    said: str = ""
    tables: str = ""
    origin: str = ""
    styles: Sequence[str] = field(default=())


def page(parts: Sequence[Part], about: About, shared: Iterable[str] = (), images: bool = False) -> str:
    """The page, as text; equal arguments make equal pages.

    Args:
        parts: the widgets, from top to bottom.
        about: the words around them, and the names of style sheets of static/ beside report.css.
        shared: names of traits that all widgets which have them share.
        images: whether addresses of pictures may be written out (`data:`) in a trait.

    Raises:
        ValueError: for traits that hold NaN or infinite numbers, which JSON cannot say; send None, or bytes.
    """
    css = style_sheet(about.styles)
    names = list(dict.fromkeys(part.module for part in parts))
    return _PAGE.format(
        policy=policy(css, _BOOT, images),
        version=__version__,
        title=escape(about.title),
        tab=f": {escape(about.made)}" if about.made else "",
        css=css,
        made=f'<p class="made">{escape(about.made)}</p>\n' if about.made else "",
        said=about.said,
        views=_views(parts),
        tables=about.tables,
        origin=f"<section>\n<h2>What it was made from</h2>\n{about.origin}\n</section>\n" if about.origin else "",
        data=_json({"parts": [_plain(part) for part in parts], "shared": [*shared]}),
        modules="".join(f'<script type="text/plain" id="{escape(name)}">{module(name)}</script>\n' for name in names),
        boot=_BOOT,
    )


def style_sheet(styles: Iterable[str] = ()) -> str:
    """report.css and these style sheets of static/ in one."""
    static = files("headlens").joinpath("static")
    return "".join(static.joinpath(name).read_text() for name in ("report.css", *styles))


def _views(parts: Sequence[Part]) -> str:
    rows: list[list[str]] = []
    for at, part in enumerate(parts):
        heading = f"<h2>{escape(part.heading)}</h2>\n" if part.heading else ""
        row = rows[-1] if part.beside and rows else []
        if not row:
            rows.append(row)
        row.append(f'<section>\n{heading}<div id="view-{at}"></div>\n</section>\n')
    return "".join(f'<div class="beside">\n{"".join(row)}</div>\n' if len(row) > 1 else row[0] for row in rows)


def _plain(part: Part) -> dict[str, Any]:
    raw = {name for name, value in part.traits.items() if isinstance(value, bytes | memoryview)}
    return {
        "module": part.module,
        "traits": {name: value for name, value in part.traits.items() if name not in raw},
        "bytes": {name: base64.b64encode(part.traits[name]).decode() for name in raw},
    }


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(
            f"A trait of this page holds a number that JSON cannot say ({error}); send None for what is missing, or "
            "bytes."
        ) from error
    return text.translate(ESCAPES)
