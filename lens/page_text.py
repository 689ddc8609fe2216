"""What a page says of a map in words and tables, as HTML: how to read it, its largest cells, what it was made from."""

from collections.abc import Mapping
from html import escape
from typing import Any

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import Interval
from headlens.numbers import decimals, reach, shown
from headlens.page_data import TOP
from headlens.pictures import Picture, interval_of, title_of
from headlens.token_labels import described, marked, token_labels

_SHORT = 24
_ROWS = {
    "layer": "layers, with the one nearest the input on top",
    "head": "heads",
    "heads": "sets of heads, each changed together",
    "pos": "token positions",
    "query": "query positions",
    "key": "key positions",
}


def size(picture: Picture) -> str:
    """How large a map is: "30 layers, 9 heads"."""
    headmap = picture.headmap
    return ", ".join(_counted(count, dim) for dim, count in zip(headmap.dims, headmap.values.shape, strict=True))


def guide(by_metric: Mapping[str, Picture]) -> str:
    """The paragraph that says how to read the page."""
    picture = next(iter(by_metric.values()))
    says = [_spanned(picture), *_numbers(by_metric), *_entries(picture), *_tokens(picture), _sureness(picture)]
    return " ".join(says)


def in_words(headmap: HeadMap) -> str:
    """The paragraph of what the map says of itself in words, line by line; nothing where it says nothing."""
    words = headmap.provenance.get("in_words")
    lines = "" if words is None else escape(str(words)).replace("\n", "<br>")
    return f'<p class="guide">{lines}</p>\n' if lines else ""


def table(picture: Picture, metric: str) -> str:
    """The largest cells of the whole map, for readers without scripts."""
    headmap, interval = picture.headmap, interval_of(picture.headmap)
    top, digits = headmap.top(TOP), decimals(reach(headmap))
    bounds = "" if interval is None else f'<th scope="col" class="number">{interval.level:.0%} interval</th>'
    tokens = {dim: labels for dim in headmap.dims if (labels := token_labels(headmap, dim))}
    rows = []
    for row in top.to_dict("records"):
        words = described([labels[headmap.coords[dim].index(row[dim])] for dim, labels in tokens.items()])
        known = interval is not None and row["low"] == row["low"]
        ends = f"[{shown(row['low'], digits)}, {shown(row['high'], digits)}]" if known else ""
        cells = [shown(row["value"], digits), *([] if interval is None else [ends])]
        label = escape(f"{row['label']} {words}".strip())
        rows.append(f"<tr><td>{label}</td>" + "".join(f'<td class="number">{c}</td>' for c in cells) + "</tr>")
    of_metric = f" ({escape(metric)})" if metric else ""
    return (
        f"<table><caption>The {len(rows)} largest by magnitude{of_metric}</caption><thead><tr>"
        f'<th scope="col">{picture.noun}</th><th scope="col" class="number">value</th>{bounds}</tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def provenance(made_from: Mapping[str, Any]) -> str:
    """All that the map knows about its making, but `in_words`; tokens in the short form that pictures show."""
    if not made_from:
        return "<p>This map does not say.</p>"
    tokens = made_from.get("tokens")
    short = {"tokens": " ".join(marked(token)[0] for token in tokens)} if isinstance(tokens, list | tuple) else {}
    return _nested({key: value for key, value in {**made_from, **short}.items() if key != "in_words"})


def _nested(value: Any) -> str:
    """Nested plain values as nested lists of terms."""
    if isinstance(value, Mapping):
        terms = (f"<dt>{escape(str(key))}</dt><dd>{_nested(part)}</dd>" for key, part in value.items())
        return f"<dl>{''.join(terms)}</dl>" if value else "none"
    if isinstance(value, list | tuple):
        # commas part short entries only: long ones have commas of their own
        if any(isinstance(part, Mapping | list | tuple) or len(str(part)) > _SHORT for part in value):
            return f"<ol>{''.join(f'<li>{_nested(part)}</li>' for part in value)}</ol>"
        return ", ".join(_nested(part) for part in value) or "none"
    plain = {None: "none", True: "yes", False: "no"} if value is None or isinstance(value, bool) else {}
    return escape(str(plain.get(value, value)))


def _spanned(picture: Picture) -> str:
    rows, *columns = picture.outer
    one = {"head": "attention head"}.get(picture.noun, picture.noun)
    if not columns:
        return f"Each bar is one {one}: from top to bottom stand the {_ROWS[rows]}."
    across = "the heads of a layer" if columns == ["head"] else _ROWS[columns[0]]
    cell = "" if picture.noun == "cell" else f"Each cell is one {one}: "
    return f"{cell}{'rows' if cell else 'Rows'} are {_ROWS[rows]}, and columns are {across}."


def _numbers(by_metric: Mapping[str, Picture]) -> list[str]:
    first = next(iter(by_metric.values()))
    maps = [picture.headmap for picture in by_metric.values()]
    if len({each.sign for each in maps}) > 1:
        says = [f"{escape(each.name)} is{_units(each.units)}. {escape(each.sign.rstrip('.'))}." for each in maps]
    else:
        units = {each.units for each in maps}
        in_units = f",{_units(units.pop())}" if len(units) == 1 else ""
        says = [f"The number is the {escape(maps[0].name)}{in_units}. {escape(maps[0].sign.rstrip('.'))}."]
    if len(by_metric) > 1:
        says.append("Each metric has a map and a scale of its own.")
    if len(first.outer) > 1 or first.inner:
        says.append(
            "Orange is positive, blue is negative, and both reach equally far from 0, which has the colour of the "
            "middle of the scale."
        )
    return says


def _units(units: str) -> str:
    return f" in units of: {escape(units.rstrip('.'))}"


def _entries(picture: Picture) -> list[str]:
    if not picture.inner:
        return []
    one = "position" if picture.inner == ("pos",) else " and ".join(title_of(dim) for dim in picture.inner)
    return [
        f"Every {picture.noun} was measured at every {one}. The map shows each at its strongest, which was picked "
        f"after looking and so flatters it a little; choose a {picture.noun} to see it at every {one}, and there a "
        f"{one} to see every {picture.noun} at it."
    ]


def _tokens(picture: Picture) -> list[str]:
    labels = [label for dim in picture.headmap.dims for label in token_labels(picture.headmap, dim) or []]
    if not labels:
        return []
    differing = " (with … where prompts differ: the most common one)" if any(remark for _, remark in labels) else ""
    # head_stats reads running text too, and prompts without a corrupted one
    which = "prompts" if picture.headmap.provenance.get("analysis") == "head_stats" else "clean prompts"
    return [f"Positions carry the token that stands there in the {which}{differing}."]


def _sureness(picture: Picture) -> str:
    headmap, interval = picture.headmap, interval_of(picture.headmap)
    if interval is not None:
        return _interval(interval, headmap.values.size if not picture.inner else picture.at_peaks.values.size, picture)
    if headmap.samples is not None:
        return "It was measured on a single prompt, so nothing can be said about other prompts."
    return "The numbers of the single prompts were not kept, so there is no interval."


def _interval(interval: Interval, count: int, picture: Picture) -> str:
    return (
        f"Brackets hold the {interval.level:.0%} interval of a value: {escape(interval.method)}. It says how far "
        f"the value could have come out otherwise with other prompts of this kind, for one {picture.noun} at a time: "
        f"among {count} {picture.noun}s, some lie outside theirs by chance."
    )


def _counted(count: int, dim: str) -> str:
    plural = {"query": "queries"}.get(dim, f"{title_of(dim)}s")
    return f"{count} {title_of(dim) if count == 1 else plural}"
