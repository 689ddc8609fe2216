"""The choice tasks that come with headlens, by name; each maker is (model, n, seed, ...) -> ChoiceTask.

Every answer comes equally often (for n a multiple of the answers times the templates), so that no constant choice
beats chance. Equal arguments give equal tasks.
"""

from collections.abc import Callable

from headlens.analyses.agreement import agreement as agreement
from headlens.analyses.choice_task import ChoiceTask as ChoiceTask
from headlens.analyses.larger import larger as larger
from headlens.analyses.question_kinds import question_kinds as question_kinds
from headlens.analyses.sentiment import sentiment as sentiment
from headlens.hooks.nearest import did_you_mean

REGISTRY: dict[str, Callable[..., ChoiceTask]] = {
    "sentiment": sentiment,
    "question_kinds": question_kinds,
    "agreement": agreement,
    "larger": larger,
}


def named(name: str) -> Callable[..., ChoiceTask]:
    """The function (model, n, seed) that makes the choice task of this name; ValueError names the nearest one."""
    if name in REGISTRY:
        return REGISTRY[name]
    hint = did_you_mean(name, REGISTRY)
    raise ValueError(
        f"Unknown choice task {name!r}{hint}; the choice tasks are {', '.join(REGISTRY)}. ChoiceTask.from_jsonl reads "
        "prompts of your own."
    )
