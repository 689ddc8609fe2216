"""The strongest heads of a map as lines of text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap

BAR = 24


def ranking(headmap: "HeadMap", k: int) -> str:
    """Lay the k cells of largest magnitude out as a table: name, value, 95% interval if known, and a bar of + or -."""
    top = headmap.top(k)
    if top.empty:
        return "(every value is missing)"
    widest = max(len(label) for label in top["label"])
    largest = max(abs(value) for value in top["value"]) or 1.0
    lines = []
    for row in top.to_dict("records"):
        value = row["value"]
        interval = f"  [{row['low']:+.3f}, {row['high']:+.3f}]" if "low" in row else ""
        bar = ("+" if value > 0 else "-") * round(BAR * abs(value) / largest)
        lines.append(f"  {row['label']:<{widest}}  {value:+.3f}{interval}  {bar}".rstrip())
    return "\n".join(lines)
