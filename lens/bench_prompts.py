"""The prompts of a bench: pairs of indirect object identification, alone or at the end of a longer text."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from headlens.analyses.task import Task
from headlens.analyses.tasks import ioi as make_ioi
from headlens.choice import one_of

# One template, so that all prompts are equally long: 14 tokens of SmolLM2, of which the tenth differs.
TEMPLATE = "when-went"
# Another 48 tokens of SmolLM2. Both prompts of a pair begin with it.
BEFORE = (
    "The town lay in a quiet valley beside a slow green river. In summer the people who lived there met every evening, "
    "walked along the water and talked about the day. Children played, old friends laughed, and nobody was in a hurry."
)


def ioi(tokenizer: PreTrainedTokenizerBase, n: int) -> Task:
    """Short prompts: "When Mary and John went to the store, John gave a drink to"."""
    return make_ioi(tokenizer, n=n, templates=TEMPLATE)


def long(tokenizer: PreTrainedTokenizerBase, n: int) -> Task:
    """The same prompts behind a text that a clean and a corrupted run share."""
    short = ioi(tokenizer, n)
    pairs = [
        (f"{BEFORE} {clean}", f"{BEFORE} {corrupted}", answer, foil)
        for (clean, corrupted), (answer, foil) in zip(short.texts, short.answer_texts, strict=True)
    ]
    return Task.from_pairs(tokenizer, pairs, name="long")


PROMPTS: dict[str, Callable[[PreTrainedTokenizerBase, int], Task]] = {"ioi": ioi, "long": long}


def named(name: str) -> Callable[[PreTrainedTokenizerBase, int], Task]:
    """The function (tokenizer, n) that makes the prompts of this name; ValueError names the nearest one."""
    return PROMPTS[one_of("prompts", name, PROMPTS)]
