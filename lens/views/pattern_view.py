"""PatternView: where one head reads from, over the tokens of a prompt; or any head of a grid of them, one at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets
from torch import Tensor

from headlens.views.page import About, Part
from headlens.views.pattern_svg import pattern_svg
from headlens.views.widget import View

# Bytes of patterns that a page holds, before base64 adds a third.
ROOM = 4_200_000


class PatternView(View):
    """Attention [query, key], or [layer, head, query, key] of which `selected` [row, column] is shown.

    A head's pattern travels alone, as float16. `tokens` say what stands at each position. `cell` is a [query, key],
    `locked` the token whose row is marked; `role` says whether a token is shown as the "destination", which reads, or
    as the "source", which is read. Of prompts of more than 64 tokens a block is drawn, which begins at `corner`.

    A saved page holds the patterns of all heads, in steps of at most 0.4% of attention, finer where there is little;
    where they need more than 4.2 MB, that of the selected head alone.

    Raises:
        ValueError: for patterns of another shape or without numbers from 0 to 1, and traits set to what is not there.
    """

    modules = ("pattern.js",)
    styles = ("pattern.css",)

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    pattern = traitlets.Bytes().tag(sync=True)
    selected = traitlets.List(traitlets.Int(), None, allow_none=True, minlen=2, maxlen=2).tag(sync=True)
    cell = traitlets.List(traitlets.Int(), None, allow_none=True, minlen=2, maxlen=2).tag(sync=True)
    locked = traitlets.Int(None, allow_none=True).tag(sync=True)
    role = traitlets.Enum(("destination", "source"), "destination").tag(sync=True)
    corner = traitlets.List(traitlets.Int(), [0, 0], minlen=2, maxlen=2).tag(sync=True)
    heads = traitlets.List(traitlets.Int()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        patterns: np.ndarray | Tensor | None,
        tokens: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        **traits: Any,
    ) -> None:
        """`names` are what the heads of a grid are called, row by row; "L0H0" and so on without them. Without patterns
        nothing is shown until `show` is called."""
        array = None if patterns is None else _as_patterns(patterns)
        self.grid = array if array is not None and array.ndim == 4 else None
        self.size = len(tokens or ()) if array is None else array.shape[-1]
        first: dict[str, Any] = {"tokens": self._checked_tokens(tokens, self.size)}
        if self.grid is not None:
            rows, columns = self.grid.shape[:2]
            every = names or [f"L{row}H{column}" for row in range(rows) for column in range(columns)]
            first |= {"heads": [rows, columns], "names": [*every]}
        elif array is not None:
            first["pattern"] = _as_bytes(array)
        super().__init__(**{**first, **traits})

    def show(self, pattern: np.ndarray | Tensor | None, tokens: Sequence[str], title: str = "") -> None:
        """Show another pattern [query, key], of this prompt or of another; None to show its tokens alone."""
        array = None if pattern is None else _as_patterns(pattern)
        size = len(tokens) if array is None else array.shape[-1]
        words = self._checked_tokens(tokens, size)
        # positions of another prompt are other positions
        kept = {} if words == self.tokens else {"cell": None, "locked": None, "corner": [0, 0]}
        self.grid, self.size = None, size
        alone = {"selected": None, "heads": [], "names": [], "pattern": b"" if array is None else _as_bytes(array)}
        with self.hold_sync():
            for name, value in {**kept, **alone, "tokens": words, "title": title}.items():
                setattr(self, name, value)

    def shown(self) -> np.ndarray | None:
        """The pattern [query, key] that is shown, float16; None before a head is chosen."""
        if not self.pattern:
            return None
        return np.frombuffer(self.pattern, "<f2").reshape(self.size, self.size)

    def fallback(self) -> str:
        return pattern_svg(self.shown(), self.tokens, self.title, self.corner)

    def about(self) -> About:
        heads = "" if self.grid is None else f", {len(self.names)} heads"
        title = f"Attention of {self.title}" if self.title else "Attention"
        return About(title, f"{len(self.tokens)} tokens{heads}", styles=self.styles)

    def parts(self) -> list[Part]:
        traits = self.state()
        if self.grid is not None and self.grid.size <= ROOM:
            traits |= stored(self.grid, self.names)
        elif self.grid is not None:
            traits |= {"heads": [], "names": []}
        return [Part(self.modules[0], traits)]

    def _checked_tokens(self, tokens: Sequence[str] | None, size: int) -> list[str]:
        words = [str(at) for at in range(size)] if tokens is None else [*tokens]
        if len(words) != size or not words:
            raise ValueError(
                f"{len(words)} tokens were given for a pattern of {size} positions; give one for each, and one or more."
            )
        return words

    @traitlets.validate("selected")
    def _known_head(self, proposal: Any) -> list[int] | None:
        at = proposal["value"]
        if at is None:
            return at
        if self.grid is None:
            raise ValueError(f"selected={at} was given, and this view holds one head; give [layer, head, query, key].")
        shape = self.grid.shape[:2]
        if not all(0 <= one < size for one, size in zip(at, shape, strict=True)):
            raise ValueError(f"selected={at} was given; expected [row, column] inside {shape}, from 0.")
        return at

    @traitlets.validate("cell", "corner", "locked")
    def _known_place(self, proposal: Any) -> Any:
        value, size = proposal["value"], self.size
        places = [] if value is None else [value] if isinstance(value, int) else value
        if not all(0 <= place < size for place in places):
            raise ValueError(f"{proposal['trait'].name}={value} was given; expected positions from 0 to {size - 1}.")
        return value

    @traitlets.observe("selected")
    def _select(self, change: Any) -> None:
        if self.grid is None:
            return
        at = self.selected
        with self.hold_sync():
            self.title = "" if at is None else self.names[at[0] * self.heads[1] + at[1]]
            self.pattern = b"" if at is None else _as_bytes(self.grid[at[0], at[1]])


def stored(patterns: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Traits that hold the patterns [row, column, query, key] of a grid: a byte b for an attention of (b / 255)^2."""
    coded = np.round(255 * np.sqrt(np.clip(np.nan_to_num(patterns.astype(np.float32)), 0, 1))).astype(np.uint8)
    return {
        "pattern": b"",
        "store": coded.tobytes(),
        "heads": [*patterns.shape[:2]],
        "names": [*names],
    }


def _as_bytes(pattern: np.ndarray) -> bytes:
    return pattern.astype("<f2").tobytes()


def _as_patterns(given: np.ndarray | Tensor) -> np.ndarray:
    """Checked, as float16."""
    array = given.detach().cpu().float().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.ndim not in (2, 4) or array.shape[-1] != array.shape[-2] or 0 in array.shape:
        raise ValueError(
            f"Patterns of shape {array.shape} were given; expected [query, key] of one head, or [layer, head, query, "
            "key], with as many keys as queries."
        )
    if np.nanmin(array, initial=0) < 0 or np.nanmax(array, initial=0) > 1.001:
        raise ValueError("These patterns hold numbers below 0 or above 1; attention lies between: give no scores.")
    return array.astype(np.float16)
