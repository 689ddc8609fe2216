"""A map in lines of text: how many cells of what it has, and the strongest of them."""

from typing import TYPE_CHECKING

from headlens.pictures import by_metric

if TYPE_CHECKING:
    import pandas

    from headlens.analyses.headmap import HeadMap

BAR = 24
# What an entry of a dim is called, and several.
_NOUNS = {
    "layer": ("layer", "layers"),
    "heads": ("set of heads", "sets of heads"),
    "pos": ("position", "positions"),
    "query": ("query position", "query positions"),
    "key": ("key position", "key positions"),
    "task": ("task", "tasks"),
}


def described(headmap: "HeadMap", k: int) -> str:
    """The k strongest cells by each metric, with units above and the meaning of the sign below.

    What the map says of itself in words comes first.
    """
    maps = by_metric(headmap)
    alike = len({each.sign for each in maps.values()}) == 1
    rankings = "\n".join(_titled(each, k) + ("" if alike else f"\n{each.sign}") for each in maps.values())
    sign = f"\n{headmap.sign}" if alike else ""
    # only tokens that are not the same in every prompt need a word
    note = "\nA token with … is the most common one at its position." if "…”" in rankings else ""
    words = f"{headmap.provenance['in_words']}\n" if "in_words" in headmap.provenance else ""
    return f"{words}{rankings}{sign}{note}"


def ranking(headmap: "HeadMap", k: int) -> str:
    """Lay the k cells of largest magnitude out as a table: name, value, 95% interval if known, and a bar of + or -.

    A position is followed by its token, where the map knows it.
    """
    top = headmap.top(k)
    if top.empty:
        return "(every value is missing)"
    labels = _labels(headmap, top)
    widest = max(map(len, labels))
    largest = max(abs(value) for value in top["value"]) or 1.0
    lines = []
    for label, row in zip(labels, top.to_dict("records"), strict=True):
        value = row["value"]
        interval = f"  [{_signed(row['low'])}, {_signed(row['high'])}]" if _known(row) else ""
        bar = ("+" if value > 0 else "-") * round(BAR * abs(value) / largest)
        lines.append(f"  {label:<{widest}}  {_signed(value)}{interval}  {bar}".rstrip())
    return "\n".join(lines)


def cells_of(headmap: "HeadMap") -> str:
    """What was measured: "270 heads", "30 layers x 14 positions of resid_pre", "90 key/value heads of v at S2"."""
    made_from, sizes = headmap.provenance, dict(zip(headmap.dims, headmap.values.shape, strict=True))
    site = made_from.get("site", "z")
    counts = []
    if "head" in sizes:
        noun = "key/value head" if site in ("rot_k", "v") else "head"
        counts.append(counted(sizes.pop("layer", 1) * sizes.pop("head"), noun))
    counts += [counted(size, *_NOUNS[dim]) for dim, size in sizes.items() if dim in _NOUNS]
    of_site = "" if site == "z" else f" of {site}"
    positions = made_from.get("positions")
    where = f" at {', '.join(map(str, positions))}" if positions else ""
    return f"{' x '.join(counts)}{of_site}{where}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number and its noun: "1 pair", "2 pairs"."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _known(row: dict) -> bool:
    """Whether a row of a table has an interval: a single template gives none."""
    low = row.get("low")
    return low is not None and low == low


def _signed(value: float) -> str:
    # adding 0 turns -0.0 into 0.0
    return f"{round(float(value), 3) + 0.0:+.3f}"


def _titled(headmap: "HeadMap", k: int) -> str:
    metric = headmap.provenance.get("metric")
    units = headmap.units
    if units.endswith("each metric") and isinstance(metric, str):
        units = f"{units.removesuffix('each metric')}{metric}"
    sure = ", with 95% intervals" if headmap.samples is not None and len(headmap.samples) > 1 else ""
    return f"{headmap.name} ({units}){sure}:\n{ranking(headmap, k)}"


def _labels(headmap: "HeadMap", top: "pandas.DataFrame") -> list[str]:
    """The names of these cells, each with the tokens at its positions."""
    from headlens.token_labels import described as in_words
    from headlens.token_labels import token_labels

    tokens = {dim: labels for dim in headmap.dims if (labels := token_labels(headmap, dim))}
    texts = []
    for row in top.to_dict("records"):
        at = [labels[headmap.coords[dim].index(row[dim])] for dim, labels in tokens.items()]
        # the share of prompts is for pages; here a mark says that they differ
        texts.append(f"{row['label']} {in_words([(text, '') for text, _ in at])}".strip())
    return texts
