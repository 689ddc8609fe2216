"""View: the base of the widgets, each a module of static/ in a notebook and on a page, or a picture where none runs.

The traits of a view are its whole state: setting one has its consequence at once, with or without a browser.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import anywidget

from headlens.analyses.atomic import write_text
from headlens.javascript import module
from headlens.views.page import About, Part, page, style_sheet

# Colours by JupyterLab's and VS Code's own light and dark, which need not be the system's.
_THEMES = "views.css"


class View(anywidget.AnyWidget):
    """A widget of one module. A class names its `modules` (the first is the widget's own) and `styles` of static/, and
    gives a `fallback`."""

    modules: ClassVar[Sequence[str]] = ()
    styles: ClassVar[Sequence[str]] = ()

    def __init__(self, **traits: Any) -> None:
        self._esm, self._css = _code(self.modules[0], tuple(self.styles))
        super().__init__(**traits)

    def fallback(self) -> str:
        """The view as a still picture: SVG text that needs no style sheet."""
        raise NotImplementedError

    def about(self) -> About:
        """The words of the page around the view."""
        return About(type(self).__name__.removesuffix("View"), styles=self.styles)

    def state(self) -> dict[str, Any]:
        """The traits that the module reads."""
        own = set(self.trait_names(sync=True)) - set(anywidget.AnyWidget.class_trait_names())
        return {name: getattr(self, name) for name in sorted(own) if not name.startswith("_")}

    def parts(self) -> list[Part]:
        """The widgets of the page: this one, as it is now."""
        return [Part(self.modules[0], self.state())]

    def html(self) -> str:
        """One page with the view as it is now, complete in itself; equal views make equal pages."""
        return page(self.parts(), self.about())

    def save(self, path: str | Path) -> Path:
        """Write `html` to a file, atomically, and return its path."""
        target = Path(path)
        write_text(target, self.html())
        return target

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_fallback(super()._repr_mimebundle_(**kwargs), self.fallback())


def with_fallback(bundle: Any, svg: str) -> Any:
    """What a notebook stores of a widget, with a picture for readers that run no widgets, such as GitHub's."""
    if bundle is None:
        return None
    data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
    data = {**data, "image/svg+xml": svg}
    return (data, *metadata) if metadata else data


@cache
def _code(name: str, styles: tuple[str, ...]) -> tuple[str, str]:
    return module(name), style_sheet((_THEMES, *styles))
