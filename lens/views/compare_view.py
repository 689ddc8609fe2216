"""CompareView: two maps beside each other, with what is on top of both marked, and where every cell ranks in either."""

from typing import Any

import traitlets

from headlens.analyses.comparison import Comparison
from headlens.analyses.headmap import HeadMap
from headlens.views.compare_data import Compared, compare_numbers, compare_payload, compared
from headlens.views.compare_svg import compare_svg
from headlens.views.compare_words import compare_about
from headlens.views.page import About
from headlens.views.widget import View


class CompareView(View):
    """Two maps of the same two dims, such as (layer, head), matched by their coords.

    Both are on one colour scale if their units are the same. The `top` cells of largest magnitude in each are marked,
    and what is on top of both apart from the rest, with the number that chance would share. The scatter shows each
    cell's rank in both maps `by` "magnitude" or "value" (which is what Spearman's correlation goes by). `selected` is a
    cell as [row, column] indices, the same in all pictures. `names` tell the maps apart (by default their tasks, their
    models, or their names).

    Raises:
        ValueError: for maps of different or other dims or without a common cell, and traits set to what is not there.
    """

    modules = ("compare.js",)
    styles = ("compare.css",)

    data = traitlets.Dict().tag(sync=True)
    numbers = traitlets.Bytes().tag(sync=True)
    ranks = traitlets.Bytes().tag(sync=True)
    top = traitlets.Int(10).tag(sync=True)
    by = traitlets.Enum(("magnitude", "value"), "magnitude").tag(sync=True)
    selected = traitlets.List(traitlets.Int(), allow_none=True).tag(sync=True)

    def __init__(
        self, first: HeadMap, second: HeadMap, top: int = 10, names: tuple[str, str] | None = None, **traits: Any
    ) -> None:
        self.compared: Compared = compared(first, second, top, names)
        super().__init__(
            data=compare_payload(self.compared),
            numbers=compare_numbers(self.compared),
            ranks=self.compared.ranks.astype("<i4").tobytes(),
            **{"top": min(top, self.compared.most), "selected": self.compared.strongest, **traits},
        )

    @property
    def comparison(self) -> Comparison:
        """What `compare` says of the maps, at the `top` that the view was made with."""
        return self.compared.comparison

    @property
    def on_top(self) -> tuple[list[str], list[str], list[str]]:
        """Labels of the cells on top of both maps, of the first alone, and of the second alone."""
        return self.compared.on_top(self.top)

    def described(self) -> str:
        """The sentence on the overlap at this `top`, and that on the ranks."""
        return f"{self.compared.overlap_in_words(self.top)} {self.compared.correlation_in_words()}"

    def label(self) -> str | None:
        """The name of the selected cell."""
        return None if self.selected is None else self.compared.maps[0].label(self.selected)

    def fallback(self) -> str:
        return compare_svg(self.compared, self.top)

    def about(self) -> About:
        return compare_about(self.compared, self.top, self.styles)

    @traitlets.validate("top")
    def _in_reach(self, proposal: Any) -> int:
        top, most = proposal["value"], self.compared.most
        if not 1 <= top <= most:
            raise ValueError(f"top={top} was given; expected 1 to {most}, how many cells can count as on top here.")
        return top

    @traitlets.validate("selected")
    def _known_cell(self, proposal: Any) -> list[int] | None:
        at, shape = proposal["value"], self.compared.maps[0].values.shape
        if at is not None and not (len(at) == 2 and all(0 <= one < size for one, size in zip(at, shape, strict=True))):
            raise ValueError(f"selected={at} was given; expected [row, column] inside {shape}, from 0.")
        return at
