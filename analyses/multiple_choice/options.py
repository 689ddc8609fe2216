"""The options of a lettered task: where each one's letter and content stand, and the token that answers with it."""

import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.metrics import Metric
from headlens.analyses.task import Task
from headlens.analyses.tokens import continuation, tokenizer_of
from headlens.hooks.model import Model

_LETTER = re.compile(r"^L\d+$")
# What is measured of a prompt with options, in logits.
MEASURE = "right letter minus the mean of the others"


@dataclass(frozen=True, eq=False)
class Options:
    """The options of each clean prompt, in the order in which they stand."""

    letters: np.ndarray  # prompt item: the letters as text
    tokens: Int[Tensor, "prompt item"]  # what the model says at END to answer with each
    letter_at: Int[Tensor, "prompt item"]
    content_at: Int[Tensor, "prompt item"]
    right: Int[Tensor, " prompt"]  # which item is right, from 0

    @property
    def items(self) -> int:
        """How many options a prompt has."""
        return self.tokens.shape[1]

    @property
    def is_right(self) -> np.ndarray:
        """[prompt, item]"""
        return self.right[:, None].numpy() == np.arange(self.items)

    def of_right(self, each: Float[np.ndarray, "prompt ... item"]) -> Float[np.ndarray, "prompt ..."]:
        """The right option's number of each prompt."""
        return np.stack([row[..., item] for row, item in zip(each, self.right.tolist(), strict=True)])


def has_options(task: Task) -> bool:
    """Whether a task names the letters of options, as `headlens.tasks.lettered` does."""
    return {"L1", "O1", "L2", "O2", "L+"} <= {*task.positions}


def options_of(model: Model, task: Task) -> Options:
    """Read the options off a task's clean prompts.

    ValueError for a task without the positions L1, O1, .. and L+, or whose letters are not single tokens behind the
    prompts, one of which is the answer.
    """
    if not has_options(task):
        raise ValueError(
            f"The task {task.name!r} names no options (positions L1, O1, L2, O2, .. and L+); give one such as "
            "headlens.tasks.lettered(model)."
        )
    count = sum(_LETTER.match(name) is not None for name in task.positions)
    at = {kind: torch.stack([task.positions[f"{kind}{item}"] for item in range(1, count + 1)], 1) for kind in "LO"}
    tokenizer = tokenizer_of(model)
    texts = tokenizer.batch_decode([[token] for token in task.clean_tokens.gather(1, at["L"]).flatten().tolist()])
    letters = np.array([text.strip() for text in texts]).reshape(len(task), count)
    tokens = torch.empty(len(task), count, dtype=torch.int64)
    for prompt, row in enumerate(letters.tolist()):
        (text, _), (answer, _) = task.texts[prompt], task.answer_texts[prompt]
        space = answer[: len(answer) - len(answer.lstrip())]
        found = [continuation(tokenizer, text, space + letter) for letter in row]
        if None in found or int(task.answers[prompt]) not in found:
            raise ValueError(
                f"Prompt {prompt} of task {task.name!r} has the letters {', '.join(row)}, which are not single tokens "
                f"behind it with the answer {answer!r} among them; give a task whose answers are its options' letters."
            )
        tokens[prompt] = torch.tensor(found)
    right = (at["L"] == task.positions["L+"][:, None]).int().argmax(1)
    if not torch.equal(tokens.gather(1, right[:, None])[:, 0], task.answers):
        raise ValueError(f"The position L+ of task {task.name!r} is not that of the answer's letter in every prompt.")
    return Options(letters, tokens, at["L"], at["O"], right)


def against_all(task: Task, options: Options) -> Task:
    """The task with all letters but the right one as its foils."""
    rows = zip(options.tokens.tolist(), task.answers.tolist(), strict=True)
    foils = tuple(tuple(token for token in row if token != answer) for row, answer in rows)
    return replace(task, foil_sets=foils, answer_sets=())


def _answer_and_foils(task: Task) -> Int[Tensor, "prompt token"]:
    return torch.cat([task.answers[:, None], torch.tensor(task.foil_sets)], 1)


def _centred(logits: Tensor, task: Task, clean: Tensor) -> Tensor:
    return logits[..., 0] - logits[..., 1:].mean(-1)


# For tasks whose prompts have equally many foils: see `against_all`.
CENTRED = Metric("centred_logit", f"logits ({MEASURE})", _centred, _answer_and_foils)
