"""What a sweep measures: numbers read off the logits at each prompt's END position."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.tasks import Task


@dataclass(frozen=True)
class Metric:
    """A number per prompt, and the tokens whose logits it needs. Larger means more of the clean behaviour."""

    name: str
    units: str
    read: Callable[[Task], Int[Tensor, "prompt token"]]
    compute: Callable[[Float[Tensor, "*cell prompt token"]], Float[Tensor, "*cell prompt"]]


def _answer_and_foil(task: Task) -> Int[Tensor, "prompt 2"]:
    return task.answers.new_tensor([task.answers.tolist(), task.foils.tolist()]).T


def _difference(logits: Float[Tensor, "*cell prompt 2"]) -> Float[Tensor, "*cell prompt"]:
    return logits[..., 0] - logits[..., 1]


METRICS = {
    "logit_diff": Metric("logit_diff", "logits (answer minus foil)", _answer_and_foil, _difference),
}


def named(name: str) -> Metric:
    """A metric by name, or ValueError naming the nearest one."""
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(str(name), METRICS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"Unknown metric {name!r}{hint}; the metrics are {', '.join(METRICS)}.")
