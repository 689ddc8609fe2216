"""view: whatever can be looked at, as a widget."""

from typing import Any

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.headmap import HeadMap


def view(given: Any, *, model: Any = None, task: Any = None, **traits: Any) -> Any:
    """A widget for a notebook that also saves itself as one page: `view(...).save("x.html")`.

    Args:
        given: a HeadMap, or what has `counts()`, such as the sinks of hl.find_sinks; a Circuit or an EdgeMap.
        model, task: with both, a map over (layer, head) becomes an Explorer, in which a click on a head shows its
            attention on the task's prompts, and its ablation and patch can be tried.
        traits: what the widget is set to at first, such as `selected=`.

    Returns:
        A MapView, an Explorer, or a GraphView. `headlens.figures.figure` draws a map as a plotly figure.

    Raises:
        ValueError: for anything else, model without task or the other way round, and what the widget refuses.
    """
    if (model is None) != (task is None):
        missing, has = ("task", "model") if task is None else ("model", "task")
        raise ValueError(f"{has}= was given without {missing}=; a map with linked views needs both.")
    if isinstance(given, Circuit | EdgeMap):
        if model is not None:
            raise ValueError(f"A {type(given).__name__} was given with model=; only head maps have linked views.")
        from headlens.views.graph_view import GraphView

        return GraphView(given, **traits)
    counts = getattr(given, "counts", None)
    headmap = counts() if callable(counts) and not isinstance(given, HeadMap) else given
    if not isinstance(headmap, HeadMap):
        raise ValueError(
            f"A {type(given).__name__} was given; view() shows a HeadMap, such as hl.patch_sweep returns, a Circuit or "
            "an EdgeMap."
        )
    if model is None:
        from headlens.views.map_view import MapView

        return MapView(headmap, **traits)
    from headlens.views.explorer import Explorer

    return Explorer(headmap, model, task, **traits)


def view_compare(first: HeadMap, second: HeadMap, **traits: Any) -> Any:
    """Two maps beside each other, with what is on top of both marked; see `headlens.views.compare_view.CompareView`."""
    from headlens.views.compare_view import CompareView

    return CompareView(first, second, **traits)
