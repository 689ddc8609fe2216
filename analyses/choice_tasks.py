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

REGISTRY: dict[str, Callable[..., ChoiceTask]] = {
    "sentiment": sentiment,
    "question_kinds": question_kinds,
    "agreement": agreement,
    "larger": larger,
}
