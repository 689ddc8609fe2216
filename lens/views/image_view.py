"""ImageView: attention of words over the patches of a picture, of one run or of several beside each other."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from jaxtyping import Float, UInt8

from headlens.analyses.vision.gaze import Gaze
from headlens.gaze_data import ROOM, gaze_data
from headlens.hooks.sites import Head, parse_heads
from headlens.page_text import provenance
from headlens.seen_pictures import seen_pictures
from headlens.views.image_svg import image_svg
from headlens.views.page import About, page
from headlens.views.run_gazes import gazes_of_run
from headlens.views.widget import View

_GUIDE = (
    "Choose a word to see where the model looked with it, and a head on the board. A word of the prompt has its own "
    "row of attention; a word of the answer has the row in front of it, which is the one that says it. The more orange "
    "a patch, the more of the row's attention it gets, on one scale for all pictures. Attention shows where a head "
    "reads from, and is no evidence of what it takes from there."
)


class ImageView(View):
    """Gazes of one prompt, such as {"before": a, "after": b}, beside each other on one scale; or one gaze alone.

    `pictures` are those of the prompt as the model saw them (`headlens.seen_pictures`). `token` is a token's index:
    those of the prompt behind the first patch, then the answer's. `head` is whose attention is drawn: [layer, head],
    [layer] for the mean over a layer's heads, [] for that over all; at first the head that looks most over the answer.

    The patches of as many heads as `room` bytes hold are there at first, those that look most over the answer; another
    head's come when it is chosen. A saved page has those that are there, and every head's share on the image.

    Raises:
        ValueError: for no gaze, gazes of different models or prompts, another number of pictures, and traits set to
            what is not there.
    """

    modules = ("gaze.js",)
    styles = ("gaze.css",)

    data = traitlets.Dict().tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    head = traitlets.List(traitlets.Int(), maxlen=2).tag(sync=True)

    def __init__(
        self,
        gazes: Gaze | Mapping[str, Gaze],
        pictures: Sequence[UInt8[np.ndarray, "_row _column 3"]],
        head: str | Sequence[int] | None = None,
        room: int = ROOM,
        **traits: Any,
    ) -> None:
        self.gazes = {"": gazes} if isinstance(gazes, Gaze) else {**gazes}
        self.pictures, self.room = [*pictures], room
        data = gaze_data(self.gazes, self.pictures, room=room)
        self._shape = self.first.attention.shape[1:3]
        at_first = data["parts"][0]["top"][0]["head"] if head is None else _place(head, self._shape)
        token = min(self.first.n_prompt, len(self.first.tokens) - 1)
        super().__init__(**{"data": data, "head": at_first, "token": token, **traits})

    @property
    def first(self) -> Gaze:
        """The gaze on the left."""
        return next(iter(self.gazes.values()))

    @property
    def label(self) -> str:
        """Whose attention is drawn: "L2H5", "the mean of layer 2" or "the mean of all heads"."""
        if len(self.head) == 2:
            return str(Head(*self.head))
        return f"the mean of layer {self.head[0]}" if self.head else "the mean of all heads"

    def shown(self) -> dict[str, Float[np.ndarray, " patch"]]:
        """The shares of attention that are drawn, 0 to 1, over all patches, for each gaze by name."""
        return {name: self._row(gaze) for name, gaze in self.gazes.items()}

    def fallback(self) -> str:
        words = [gaze.tokens[self._at(gaze)] for gaze in self.gazes.values()]
        return image_svg(self.gazes, self.pictures, [*self.shown().values()], words, self.label)

    def html(self) -> str:
        return page(self.parts(), self.about(), images=True)

    def about(self) -> About:
        layers, heads = self._shape
        kept, every = len(self.data["kept"]), layers * heads
        grids = " and ".join(f"{grid.rows} x {grid.columns}" for grid in self.first.grids)
        answers = [f"Answer{f' {name}' if name else ''}: {gaze.answer}" for name, gaze in self.gazes.items()]
        left_out = "" if kept == every else f" The patches of {kept} of {every} heads are on this page."
        return About(
            title="Where heads look",
            made=f"{self.first.provenance.get('model', 'a model')}, {layers} layers, {heads} heads, {grids} patches",
            said=f'<p class="guide">{"<br>".join(map(escape, answers))}</p>\n<p class="guide">{_GUIDE}{left_out}</p>\n',
            tables="".join(_table(part) for part in self.data["parts"]),
            origin=provenance({name or "gaze": gaze.provenance for name, gaze in self.gazes.items()}),
            styles=self.styles,
        )

    def _at(self, gaze: Gaze) -> int:
        """The token of a gaze that is shown; a shorter answer stays at its last."""
        return min(self.token, len(gaze.tokens) - 1)

    def _row(self, gaze: Gaze) -> np.ndarray:
        row = gaze.attention[self._at(gaze)][tuple(self.head)]
        return row.reshape(-1, row.shape[-1]).mean(0, dtype=np.float64)

    @traitlets.validate("token")
    def _known_token(self, proposal: Any) -> int:
        token, count = proposal["value"], max(len(gaze.tokens) for gaze in self.gazes.values())
        if not 0 <= token < count:
            raise ValueError(f"token={token} was given; expected the index of a token, 0 to {count - 1}.")
        return token

    @traitlets.validate("head")
    def _known_head(self, proposal: Any) -> list[int]:
        return _place(proposal["value"], self._shape)

    @traitlets.observe("head")
    def _fetch(self, change: Any) -> None:
        if len(self.head) < 2 or self.head in self.data["kept"]:
            return
        others = [Head(*one) for one in self.data["kept"]]
        # in front, since what comes last is left out
        self.data = gaze_data(self.gazes, self.pictures, [Head(*self.head), *others], self.room)


def view_image(
    run: Any,
    head: str | Sequence[int] | None = None,
    *,
    pictures: Sequence[UInt8[np.ndarray, "_row _column 3"]] | None = None,
    model: Any = None,
    inputs: Mapping[str, Any] | None = None,
    **traits: Any,
) -> ImageView:
    """Attention of words over the patches of a prompt's pictures, as a widget that also saves itself as one page.

    Args:
        run: what `hl.gaze` returns; several of one prompt by what they are called, which are shown beside each other on
            one scale ({"before": ..., "after": ...}); or the folder of a run of `headlens look` or `redistribute`.
        head: whose attention is drawn at first: "L2H5" or (layer, head), (layer,) for the mean over a layer's heads,
            () for that over all. Without it the head that looks most at the image over the answer.
        pictures: those of the prompt. A run folder has its own.
        model, inputs: the model and the prompt as it took it, from which the pictures are made as the model saw them
            (cut and scaled); with models that take patches in place of pixels, `pictures` are needed beside them.
        traits: what the widget is set to at first, such as `token=`.

    Raises:
        ValueError: for a folder that holds no such run, gazes without pictures, model= without inputs= or the other way
            round, and what ImageView refuses.
    """
    if isinstance(run, str | Path):
        if pictures is not None or model is not None or inputs is not None:
            raise ValueError(f"Pictures were given for {run}; a run folder has its own, so leave them out.")
        return ImageView(*gazes_of_run(Path(run)), head, **traits)
    gazes = {"": run} if isinstance(run, Gaze) else run
    if not isinstance(gazes, Mapping) or not gazes or not all(isinstance(one, Gaze) for one in gazes.values()):
        raise ValueError(
            f"A {type(run).__name__} was given; expected what hl.gaze returns, such gazes by name, or a run folder."
        )
    if (model is None) != (inputs is None):
        missing, has = ("model", "inputs") if model is None else ("inputs", "model")
        raise ValueError(f"{has}= was given without {missing}=; pictures as the model saw them need both.")
    if inputs is not None:
        pictures = _as_seen(next(iter(gazes.values())), model, inputs, pictures)
    if pictures is None:
        raise ValueError("A gaze holds no picture; give pictures=[...], or model= and inputs= as hl.gaze took them.")
    return ImageView(gazes, pictures, head, **traits)


def _as_seen(
    gaze: Gaze, model: Any, inputs: Mapping[str, Any], pictures: Sequence[np.ndarray] | None
) -> Sequence[np.ndarray]:
    count = len({grid.image for grid in gaze.grids})
    given = [np.zeros((1, 1, 3), np.uint8)] * count if pictures is None else [*pictures]
    seen = seen_pictures(model, inputs, given)
    if pictures is None and any(one is other for one, other in zip(seen, given, strict=False)):
        raise ValueError(f"{model.name} takes no pixels of whole pictures; give pictures=[...] too.")
    return seen


def _place(head: str | Sequence[int], shape: Sequence[int]) -> list[int]:
    """A head as [layer, head], or what stands for a mean."""
    layers, heads = shape
    if isinstance(head, str):
        return [*parse_heads([head], layers, heads)[0]]
    place = [int(one) for one in head]
    if len(place) > 2 or not all(0 <= one < size for one, size in zip(place, shape, strict=False)):
        raise ValueError(
            f"head={head!r} was given; expected (layer, head) of {layers} layers with {heads} heads, (layer,) for the "
            "mean of one, or () for that of all."
        )
    return place


def _table(part: Mapping[str, Any]) -> str:
    """The heads that look most, for readers without scripts."""
    of_part = f", {escape(part['name'])}" if part["name"] else ""
    rows = "".join(f'<tr><td>{row["label"]}</td><td class="number">{row["share"]:.1%}</td></tr>' for row in part["top"])
    return (
        f"<table><caption>Share of attention on the image over the answer{of_part}</caption><thead><tr>"
        f'<th scope="col">head</th><th scope="col" class="number">share</th></tr></thead><tbody>{rows}</tbody></table>'
    )
