"""Explorer: a head map, the attention of the chosen head, what is known of it, and the answer when it is changed."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import traitlets

from headlens.analyses.atomic import write_text
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.headmap import HeadMap
from headlens.analyses.task import Task
from headlens.hooks.apply import Edit
from headlens.hooks.edits import Ablate, Gate
from headlens.hooks.model import Model
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import Temperature
from headlens.views.explorer_controls import controls
from headlens.views.head_card import HeadCard
from headlens.views.map_view import MapView
from headlens.views.page import About, Part, page
from headlens.views.pattern_view import ROOM, PatternView, stored
from headlens.views.prompt_reading import PromptReading
from headlens.views.widget import with_fallback

# Prompts whose runs are kept.
_KEPT = 8


class Explorer(ipywidgets.VBox):
    """A map over (layer, head) beside the prompts of a task that a model reads: choose a head, and all else follows.

    Traits:
        selected: (layer, head), or None. A click on the map sets it, and `attention` and `card` show that head.
        prompt: which prompt of the task is read.
        tau, beta, gamma: recalibration of the selected head in the clean run: its scores are multiplied by tau, the
            first token keeps beta of its attention and the other keys take the rest, its output is multiplied by gamma.
            All are 1, which changes nothing, for a newly selected head.
        before, after: answer logit minus foil logit of the run that was last changed, without and with the change that
            `done` names; NaN before there was one.

    Runs are made when something needs them and kept for each prompt. An error or an interrupt inside one leaves every
    trait, and all that is shown, as it was.

    Raises:
        ValueError: for a map without (layer, head), one of heads that the model does not have, no task, and traits set
            to what is not there.
    """

    selected = traitlets.Tuple(traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True)
    prompt = traitlets.Int(0)
    tau = traitlets.Float(1.0)
    beta = traitlets.Float(1.0)
    gamma = traitlets.Float(1.0)
    before = traitlets.Float(np.nan)
    after = traitlets.Float(np.nan)
    done = traitlets.Unicode("")

    def __init__(
        self,
        headmap: HeadMap,
        model: Model,
        task: Task,
        *,
        edges: EdgeMap | None = None,
        selected: tuple[int, int] | None = None,
        prompt: int = 0,
    ) -> None:
        self.map = MapView(headmap)
        self.model, self.task = model, task
        self.layers, self.heads = _grid(self.map, model)
        self._readings: dict[int, PromptReading] = {}
        self._settling = False
        reading = self._read(prompt)
        self.attention = PatternView(None, reading.tokens)
        self.card = HeadCard(reading.facts, self.layers, self.heads, edges)
        super().__init__()
        self.prompt = prompt
        self.children = controls(self)
        self.map.observe(self._follow_map, "selected")
        if selected is not None:
            self.selected = selected

    @property
    def reading(self) -> PromptReading:
        """The prompt that is read now, with all runs that were made of it."""
        return self._read(self.prompt)

    def ablate(self) -> float:
        """Take the selected head out of the clean run (zero, at every position); returns `after`."""
        head = self._chosen()
        reading = self.reading
        return self._report(reading.clean, reading.under([Ablate(head)]), f"L{head[0]}H{head[1]} ablated")

    def patch(self) -> float:
        """Put the selected head's clean output into the corrupted run, at every position; returns `after`."""
        head = self._chosen()
        reading = self.reading
        said = f"L{head[0]}H{head[1]} of the clean prompt in the corrupted one"
        return self._report(reading.corrupted, reading.patched(*head), said)

    def recalibrations(self, tau: float, beta: float, gamma: float) -> list[Edit]:
        """The edits of the selected head that these numbers stand for; those of 1 are none."""
        head = self._chosen()
        edits: list[Edit] = [] if tau == 1 else [Temperature(head, tau)]
        if beta != 1:
            edits.append(Recalibrate(head, policy="transfer", donors="first", receivers="rest", beta=beta))
        return edits if gamma == 1 else [*edits, Gate(head, gamma)]

    def about(self) -> About:
        own = self.map.about()
        answer, foil = self.reading.answers
        said = [f"Prompt {self.prompt}: {self.reading.text}", f"Answer {answer}, foil {foil}.", *self._in_words()]
        lines = "<br>".join(escape(line) for line in said)
        styles = (*PatternView.styles, *HeadCard.styles)
        return About(own.title, own.made, f'{own.said}<p class="guide">{lines}</p>\n', own.tables, own.origin, styles)

    def html(self) -> str:
        """One page of the map, the attention of every head on this prompt, and its card, complete in itself.

        Where the patterns of all heads need more than 4.2 MB, that of the selected head alone is there, and it says so.
        """
        reading, names = self.reading, [f"L{layer}H{head}" for layer in self.layers for head in self.heads]
        shape = (len(self.layers), len(self.heads), len(reading.tokens), len(reading.tokens))
        traits = {**self.attention.state(), "selected": self.map.selected}
        heading = f"Attention over prompt {self.prompt}"
        if np.prod(shape) <= ROOM:
            patterns = [[reading.pattern(layer, head) for head in self.heads] for layer in self.layers]
            traits |= stored(np.array(patterns), names)
        else:
            del traits["selected"]
            heading += " (of one head alone: there are too many tokens for a page of all)"
        parts = [
            *self.map.parts(),
            Part(PatternView.modules[0], traits, heading),
            Part(HeadCard.modules[0], self.card.state(), "The head on this prompt", beside=True),
        ]
        return page(parts, self.about(), shared=["selected"])

    def save(self, path: str | Path) -> Path:
        """Write `html` to a file, atomically, and return its path."""
        target = Path(path)
        write_text(target, self.html())
        return target

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_fallback(super()._repr_mimebundle_(**kwargs), self.map.fallback())

    def _read(self, prompt: int) -> PromptReading:
        if prompt not in self._readings:
            for other in [one for one in self._readings if one != self.prompt][: -_KEPT + 1]:
                del self._readings[other]
            self._readings[prompt] = PromptReading(self.model, self.task, prompt)
        return self._readings[prompt]

    def _chosen(self) -> tuple[int, int]:
        if self.selected is None:
            raise ValueError("No head is selected; choose one on the map, or set explorer.selected = (layer, head).")
        return self.selected

    def _report(self, before: float, after: float, done: str) -> float:
        with self.hold_trait_notifications():
            self.before, self.after, self.done = before, after, done
        return after

    def _in_words(self) -> Sequence[str]:
        if not self.done:
            return []
        return [f"{self.done}: answer minus foil {self.before:.3f} before, {self.after:.3f} after (logits)."]

    @traitlets.validate("selected")
    def _ready_head(self, proposal: Any) -> tuple[int, int] | None:
        head = proposal["value"]
        if head is not None:
            if head[0] not in self.layers or head[1] not in self.heads:
                raise ValueError(f"selected={head} was given; expected (layer, head) of this map.")
            self.reading.pattern(*head)
        return head

    @traitlets.validate("prompt")
    def _ready_prompt(self, proposal: Any) -> int:
        prompt = proposal["value"]
        if not 0 <= prompt < len(self.task):
            raise ValueError(f"prompt={prompt} was given; the task {self.task.name!r} has 0 to {len(self.task) - 1}.")
        reading = self._read(prompt)
        # all runs are made before anything is changed, so that an interrupt in one changes nothing
        _ = reading.facts
        if self.selected is not None:
            reading.pattern(*self.selected)
        return prompt

    @traitlets.validate("tau", "beta", "gamma")
    def _ready_recalibration(self, proposal: Any) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        if self._settling:
            return value
        numbers = {"tau": self.tau, "beta": self.beta, "gamma": self.gamma, name: value}
        edits = self.recalibrations(**numbers)
        reading = self.reading
        before, after = reading.clean, reading.under(edits) if edits else reading.clean
        said = ", ".join(f"{one} {number:g}" for one, number in numbers.items())
        self._report(before, after, f"L{self._chosen()[0]}H{self._chosen()[1]} with {said}")
        return value

    @traitlets.observe("selected")
    def _show_head(self, change: Any) -> None:
        head = self.selected
        at = None if head is None else [self.layers.index(head[0]), self.heads.index(head[1])]
        self.map.set_trait("selected", at)
        self.card.set_trait("selected", at)
        self._show_pattern()
        self._neutral()

    @traitlets.observe("prompt")
    def _show_prompt(self, change: Any) -> None:
        self.card.tell(self.reading.facts)
        self._show_pattern()
        self._neutral()

    def _show_pattern(self) -> None:
        reading, head = self.reading, self.selected
        if head is None:
            self.attention.show(None, reading.tokens)
        else:
            self.attention.show(reading.pattern(*head), reading.tokens, f"L{head[0]}H{head[1]}")

    def _neutral(self) -> None:
        """Numbers that change nothing, and no result: both were of another head or prompt."""
        self._settling = True
        try:
            self.tau = self.beta = self.gamma = 1.0
        finally:
            self._settling = False
        self._report(np.nan, np.nan, "")

    def _follow_map(self, change: Any) -> None:
        at = change["new"]
        head = None if at is None else (self.layers[at[0]], self.heads[at[1]])
        if head == self.selected:
            return
        try:
            self.selected = head
        except BaseException:
            # an error or an interrupt in the run: the map goes back to the head that all else is about
            self.map.selected = change["old"]
            raise


def _grid(view: MapView, model: Model) -> tuple[list[int], list[int]]:
    """The layers and heads of a map, checked to be the model's."""
    if view.first.outer != ("layer", "head"):
        raise ValueError(
            f"This map has the dims {', '.join(view.headmap.dims)}; with model= a map over layer and head is expected."
        )
    layers, heads = ([*view.first.headmap.coords[dim]] for dim in ("layer", "head"))
    for name, own, count in (("layer", layers, model.n_layers), ("head", heads, model.n_heads)):
        if not all(isinstance(one, int) and 0 <= one < count for one in own):
            raise ValueError(f"This map has {name} {own[-1]}; {model.name} has {name}s 0 to {count - 1}.")
    return [int(layer) for layer in layers], [int(head) for head in heads]
