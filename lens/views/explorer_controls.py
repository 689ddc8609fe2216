"""What an explorer's reader acts with: a chooser of prompts, two buttons, three sliders, and the answer's numbers."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

if TYPE_CHECKING:
    from headlens.views.explorer import Explorer

# Letters of a prompt in the chooser.
_LONG = 90
_SLIDERS = {
    "tau": ("tau: scores times", 0.0, 3.0),
    "beta": ("beta: first token keeps", 0.0, 1.0),
    "gamma": ("gamma: output times", -1.0, 3.0),
}


def controls(explorer: "Explorer") -> tuple[ipywidgets.Widget, ...]:
    """The children of an explorer: its map, and under it the rest, kept in step with its traits both ways."""
    ablate, patch = (
        ipywidgets.Button(description=f"{word} here", tooltip=tip, disabled=explorer.selected is None)
        for word, tip in (
            ("ablate", "Take this head out of the clean run and read the answer"),
            ("patch", "Put this head's clean output into the corrupted run and read the answer"),
        )
    )
    ablate.on_click(lambda _: explorer.ablate())
    patch.on_click(lambda _: explorer.patch())
    prompts = _chooser(explorer)
    sliders = [_slider(explorer, name) for name in _SLIDERS]
    answer = ipywidgets.HTML(answer_html(explorer))

    def show(_: Any) -> None:
        answer.value = answer_html(explorer)
        for widget in (ablate, patch, *sliders):
            widget.disabled = explorer.selected is None

    show(None)
    explorer.observe(show, ["selected", "prompt", "before", "after", "done"])
    acts = ipywidgets.VBox([ipywidgets.HBox([ablate, patch]), *sliders, answer], layout={"min_width": "300px"})
    beside = ipywidgets.Box(
        [explorer.attention, ipywidgets.VBox([explorer.card, acts], layout={"flex": "1 1 320px"})],
        layout={"display": "flex", "flex_flow": "row wrap"},
    )
    return explorer.map, prompts, beside


def answer_html(explorer: "Explorer") -> str:
    """What the answer's logit minus the foil's is in the clean run, and what it became in the last change."""
    answer, foil = (escape(text) for text in explorer.reading.answers)
    lines = [f"Logit of “{answer}” minus “{foil}”"]
    if explorer.done:
        change = explorer.after - explorer.before
        lines.append(f"{escape(explorer.done)}:")
        lines.append(f"<b>{_signed(explorer.before)} before, {_signed(explorer.after)} after</b> ({_signed(change)})")
    return f'<div role="status">{"<br>".join(lines)}</div>'


def _chooser(explorer: "Explorer") -> ipywidgets.Dropdown:
    texts = [text[0] for text in explorer.task.texts]
    options = [(f"{at}: {_short(text)}" if text else f"prompt {at}", at) for at, text in enumerate(texts)]
    chooser = ipywidgets.Dropdown(
        options=options, value=explorer.prompt, description="Prompt", layout={"width": "100%", "max_width": "900px"}
    )
    _tie(explorer, chooser, "prompt", int)
    return chooser


def _slider(explorer: "Explorer", name: str) -> ipywidgets.FloatSlider:
    said, low, high = _SLIDERS[name]
    slider = ipywidgets.FloatSlider(
        value=getattr(explorer, name),
        min=low,
        max=high,
        step=0.05,
        description=said,
        continuous_update=False,
        style={"description_width": "150px"},
        layout={"width": "100%", "max_width": "460px"},
    )
    _tie(explorer, slider, name, float)
    return slider


def _tie(explorer: "Explorer", widget: Any, name: str, kind: Callable[[Any], Any]) -> None:
    """Both hold one value; where the explorer cannot take a new one, the widget goes back to its own."""

    def forth(change: Any) -> None:
        try:
            setattr(explorer, name, kind(change["new"]))
        except BaseException:
            widget.value = getattr(explorer, name)
            raise

    widget.observe(forth, "value")
    explorer.observe(lambda change: setattr(widget, "value", change["new"]), name)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONG else f"{line[: _LONG - 1]}…"


def _signed(number: float) -> str:
    return f"{number:+.3f}".replace("-", "\N{MINUS SIGN}")
