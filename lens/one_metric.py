"""A map of several metrics taken apart: the map of each, with units and a sign of its own where it has them."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap


def by_metric(headmap: "HeadMap") -> "dict[str, HeadMap]":
    """The map of each metric by its name; the map itself, under "", if it has no dim metric.

    Where `provenance["metrics"]` has units and sign of a metric, its map has these, and is called like it.
    """
    if "metric" not in headmap.dims:
        return {"": headmap}
    own = headmap.provenance.get("metrics", {})
    parts = {str(name): headmap.sel(metric=name) for name in headmap.coords["metric"]}
    return {name: replace(each, name=name, **own[name]) if name in own else each for name, each in parts.items()}
