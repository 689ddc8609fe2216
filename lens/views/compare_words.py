"""What is said around a page of two maps."""

from collections.abc import Sequence
from html import escape

from headlens.numbers import decimals, shown
from headlens.page_text import provenance
from headlens.views.compare_data import Compared
from headlens.views.page import About


def compare_about(found: Compared, top: int, styles: Sequence[str]) -> About:
    """The title, how to read the page, the cells on top for readers without scripts, and what the maps come from."""
    first, second = found.maps
    scale = "on one scale" if found.shares_a_scale else "on a scale each, since their units differ"
    said = (
        f"Two maps of the same cells, {scale}; orange is positive, blue is negative. What is among the largest by "
        "magnitude in both carries a full circle, what is in one map alone a ring. The points are the same cells by "
        "their rank in either map. Choose a cell anywhere to see it everywhere."
    )
    signs = " ".join(dict.fromkeys(f"{headmap.sign.rstrip('.')}." for headmap in found.maps))
    origin = "".join(
        f"<h3>{escape(name)}</h3>{provenance(headmap.provenance)}"
        for name, headmap in zip(found.names, found.maps, strict=True)
    )
    return About(
        title=f"{found.names[0]} and {found.names[1]}",
        made=first.name if first.name == second.name else f"{first.name}; {second.name}",
        said=f'<p class="guide">{escape(f"{said} {signs}")}</p>\n',
        tables=_table(found, top),
        origin=origin,
        styles=styles,
    )


def _table(found: Compared, top: int) -> str:
    titles = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in found.names)
    rows = []
    places = {label: cell for cell, label in found.labels.items()}
    for group, where in zip(
        found.on_top(top), ("both", f"{found.names[0]} alone", f"{found.names[1]} alone"), strict=True
    ):
        for label in group:
            numbers = "".join(
                f'<td class="number">{shown(float(headmap.values[places[label]]), decimals(bound))}</td>'
                for headmap, bound in zip(found.maps, found.bounds, strict=True)
            )
            rows.append(f"<tr><td>{escape(label)}, {escape(where)}</td>{numbers}</tr>")
    words = escape(found.overlap_in_words(top))
    return (
        f"<table><caption>The {top} largest: {words}</caption><thead><tr><th></th>{titles}</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table>"
    )
