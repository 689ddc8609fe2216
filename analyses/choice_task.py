"""The choice task: prompts, the tokens that may follow each, and which of these is right.

`ChoiceTask` is what accuracy is measured on. The makers in headlens.analyses.choice_tasks make one from templates,
`ChoiceTask.from_prompts` and `ChoiceTask.from_jsonl` from the user's own prompts. Whatever does not fit (choices of
several tokens, answers that are no choice) is refused when the task is made.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.analyses.array_checks import check_labels
from headlens.analyses.choice_checks import check_ids, check_prompts
from headlens.analyses.choice_prompts import ChoicePrompt, as_choice_prompt
from headlens.analyses.choice_tokens import tokenize_choices
from headlens.analyses.jsonl_objects import read_objects, write_objects
from headlens.analyses.tokens import tokenizer_of, vocabulary_of
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class ChoiceTask:
    """Prompts with choices, checked, as int64 tensors with the axes noted below.

    Tokens are padded on the right, where a causal model never sees the padding; choices are token ids, with -1 behind
    those of a prompt that has fewer than another. `answers` are places among a prompt's choices, from 0. `templates`
    has one label per prompt: prompts that share one are a cluster of the bootstrap. So has `items`: prompts that share
    one ask the same question (in another template, say), so that a split keeps them together; where none is given, or
    "", the label is made of the prompt's tokens. `texts` and `choice_texts` are "" where only token ids were given.
    `details` say how the prompts were made.
    """

    name: str
    tokens: Tensor  # prompt pos
    lengths: Tensor  # prompt
    choices: Tensor  # prompt choice
    answers: Tensor  # prompt
    templates: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    choice_texts: tuple[tuple[str, ...], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_prompts(self.name, self._arrays)
        check_ids(self._arrays, size=None)
        n = len(self)
        check_labels(n, {key: getattr(self, key) for key in ("templates", "items", "texts", "choice_texts")})
        filled = {
            "templates": self.templates or tuple(f"prompt {prompt}" for prompt in range(n)),
            "items": tuple(item or self._own_item(prompt) for prompt, item in enumerate(self.items or ("",) * n)),
            "texts": self.texts or ("",) * n,
            "choice_texts": self.choice_texts or tuple(("",) * int(count) for count in self.counts),
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def _arrays(self) -> dict[str, Tensor]:
        return {key: getattr(self, key) for key in ("tokens", "lengths", "choices", "answers")}

    @property
    def counts(self) -> Tensor:
        """How many choices each prompt has, [prompt]."""
        return (self.choices != -1).sum(1)

    @property
    def chance(self) -> float:
        """The accuracy of choosing blindly: the mean of 1 / number of choices."""
        return float((1 / self.counts.double()).mean())

    @cached_property
    def hash(self) -> str:
        """sha256 over name, templates, items, tokens, lengths, choices and answers. Texts and details are not in it."""
        digest = hashlib.sha256(repr((self.name, self.templates, self.items)).encode())
        for name, array in self._arrays.items():
            digest.update(f"{name} {tuple(array.shape)}".encode())
            digest.update(array.detach().cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> "ChoiceTask":
        """The prompts at these indices, in this order; `details["subset"]` has their indices in the whole."""
        rows = [int(index) for index in indices]
        if any(not 0 <= row < len(self) for row in rows):
            raise ValueError(f"The task {self.name!r} has prompts 0 to {len(self) - 1}; {rows} were asked for.")
        whole = self.details.get("subset", list(range(len(self))))
        longest, most = (int(count[rows].max()) if rows else 0 for count in (self.lengths, self.counts))
        return replace(
            self,
            tokens=self.tokens[rows, :longest],
            lengths=self.lengths[rows],
            choices=self.choices[rows, :most],
            answers=self.answers[rows],
            templates=tuple(self.templates[row] for row in rows),
            items=tuple(self.items[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            choice_texts=tuple(self.choice_texts[row] for row in rows),
            details={**self.details, "subset": [whole[row] for row in rows]},
        )

    def check_vocabulary(self, size: int) -> None:
        """ValueError if the task uses a token id that a vocabulary of this size does not have."""
        check_ids(self._arrays, size)

    @classmethod
    def from_prompts(
        cls,
        model: Model | PreTrainedTokenizerBase,
        rows: Iterable[Mapping[str, Any] | Sequence[Any] | ChoicePrompt],
        *,
        name: str = "choices",
        details: Mapping[str, Any] | None = None,
    ) -> "ChoiceTask":
        """A task from dicts of the form in headlens.analyses.choice_prompts, or tuples (prompt, choices, answer[,
        template]).

        Each choice must be the one token that it adds to its prompt: mostly " word", with the space. ValueError names
        the prompt that does not fit, and why.
        """
        given = [as_choice_prompt(row, f"Prompt {at}") for at, row in enumerate(rows)]
        fields = tokenize_choices(tokenizer_of(model), given, name)
        made_with = {"prepend_bos": fields.pop("prepend_bos"), **(details or {})}
        task = cls(name=name, **fields, details=made_with)
        task.check_vocabulary(vocabulary_of(model))
        return task

    @classmethod
    def from_jsonl(
        cls, model: Model | PreTrainedTokenizerBase, path: str | Path, *, name: str | None = None
    ) -> "ChoiceTask":
        """A task from a file with one JSON object a line, in the form described in headlens.analyses.choice_prompts.

        The name is the file's unless given. ValueError names the line that is wrong.
        """
        rows = [as_choice_prompt(read, where) for where, read in read_objects(path)]
        return cls.from_prompts(model, rows, name=Path(path).stem if name is None else name)

    def to_jsonl(self, path: str | Path) -> None:
        """Write the prompts in the form `from_jsonl` reads; as token ids where the task has no text."""
        write_objects(path, (self._row(prompt) for prompt in range(len(self))))

    def _own_item(self, prompt: int) -> str:
        return f"tokens {' '.join(map(str, self._own_tokens(prompt)))}"

    def _own_tokens(self, prompt: int) -> list[int]:
        return self.tokens[prompt, : int(self.lengths[prompt])].tolist()

    def _row(self, prompt: int) -> dict[str, Any]:
        choices = self.choices[prompt, : int(self.counts[prompt])].tolist()
        choices = [text or token for text, token in zip(self.choice_texts[prompt], choices, strict=True)]
        right = int(self.answers[prompt])
        row = {
            "prompt": self.texts[prompt] or self._own_tokens(prompt),
            "choices": choices,
            "answer": choices[right] if isinstance(choices[right], str) else right,
            "template": self.templates[prompt],
        }
        if self.items[prompt] != self._own_item(prompt):
            row["item"] = self.items[prompt]
        if self.details.get("prepend_bos") is not None:
            row["prepend_bos"] = self.details["prepend_bos"]
        return row
