"""The task: clean and corrupted prompts in pairs, the answer and the foil of each, and named positions.

`Task` is the value every analysis takes. The makers in headlens.analyses.tasks make one from templates,
`Task.from_pairs` and `Task.from_jsonl` from the user's own prompts. Whatever does not fit (lengths, answers,
positions) is refused when the task is made.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.analyses.array_checks import check_labels
from headlens.analyses.jsonl import read_pairs, write_pairs
from headlens.analyses.padding import moved_to_front, real_part
from headlens.analyses.pair_tokens import tokenize_pairs
from headlens.analyses.pairs import Pair, as_pair
from headlens.analyses.task_checks import check_ids, check_sets, check_shapes, check_values
from headlens.analyses.tokens import tokenizer_of, vocabulary_of
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class Task:
    """Prompt pairs, checked, as int64 tensors with the axes noted below.

    Tokens are padded on the right, where a causal model never sees the padding. `positions` name 0-based token
    positions per prompt; "END", where metrics read the logits, is always there and is the last token unless given.
    `templates` has one label per prompt: prompts that share one are a cluster of the bootstrap. `texts` are the clean
    and the corrupted text and `answer_texts` the answer and the foil as text, "" where only token ids were given.
    `details` say how the prompts were made.

    `answer_sets` and `foil_sets` are all the token ids that are right and wrong, per prompt, where there is more than
    one of each; answer and foil are among them. `metric` names the metric that suits the task.
    """

    name: str
    clean_tokens: Tensor  # prompt pos
    corrupted_tokens: Tensor  # prompt pos
    lengths: Tensor  # prompt
    answers: Tensor  # prompt
    foils: Tensor  # prompt
    positions: Mapping[str, Tensor] = field(default_factory=dict)  # prompt
    templates: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    answer_texts: tuple[tuple[str, str], ...] = ()
    answer_sets: tuple[tuple[int, ...], ...] = ()
    foil_sets: tuple[tuple[int, ...], ...] = ()
    metric: str = "logit_diff"

    def __post_init__(self) -> None:
        n = len(self.lengths)
        check_shapes(self.name, self._tokens, self.lengths, self._rows)
        check_values(self.clean_tokens.shape[1], self.lengths, self._rows)
        labels = ("templates", "texts", "answer_texts", "answer_sets", "foil_sets")
        check_labels(n, {key: getattr(self, key) for key in labels})
        filled = {
            "positions": {**self.positions, "END": self.positions.get("END", self.lengths - 1)},
            "templates": self.templates or tuple(f"prompt {prompt}" for prompt in range(n)),
            "texts": self.texts or (("", ""),) * n,
            "answer_texts": self.answer_texts or (("", ""),) * n,
            "answer_sets": _sorted_sets(self.answer_sets) or _sets_of_one(self.answers),
            "foil_sets": _sorted_sets(self.foil_sets) or _sets_of_one(self.foils),
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        check_ids(self._tokens, self.lengths, self._rows, self._sets, size=None)
        for prompt, (answer_set, foil_set) in enumerate(self._sets):
            check_sets(f"Prompt {prompt}", int(self.answers[prompt]), int(self.foils[prompt]), answer_set, foil_set)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def _tokens(self) -> dict[str, Tensor]:
        return {"clean_tokens": self.clean_tokens, "corrupted_tokens": self.corrupted_tokens}

    @property
    def _rows(self) -> dict[str, Tensor]:
        positions = {f"positions/{name}": self.positions[name] for name in sorted(self.positions)}
        return {"answers": self.answers, "foils": self.foils, **positions}

    @property
    def _sets(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return list(zip(self.answer_sets, self.foil_sets, strict=True))

    @property
    def has_sets(self) -> bool:
        """Whether any prompt has more right or wrong tokens than its answer and its foil."""
        return any(len(tokens) > 1 for tokens in (*self.answer_sets, *self.foil_sets))

    @cached_property
    def hash(self) -> str:
        """sha256 over name, tokens, answers, foils, positions, templates, and sets of several tokens.

        Texts, details and metric are not in it.
        """
        arrays = {**self._tokens, "lengths": self.lengths, **self._rows}
        digest = hashlib.sha256(repr((self.name, self.templates)).encode())
        for name, array in arrays.items():
            digest.update(f"{name} {tuple(array.shape)}".encode())
            digest.update(array.detach().cpu().numpy().astype("<i8").tobytes())
        if self.has_sets:
            digest.update(repr((self.answer_sets, self.foil_sets)).encode())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> "Task":
        """The prompts at these indices, in this order; `details["subset"]` has their indices in the whole."""
        rows = [int(index) for index in indices]
        if any(not 0 <= row < len(self) for row in rows):
            raise ValueError(f"The task {self.name!r} has prompts 0 to {len(self) - 1}; {rows} were asked for.")
        whole = self.details.get("subset", list(range(len(self))))
        longest = int(self.lengths[rows].max()) if rows else 0
        return replace(
            self,
            clean_tokens=self.clean_tokens[rows, :longest],
            corrupted_tokens=self.corrupted_tokens[rows, :longest],
            lengths=self.lengths[rows],
            answers=self.answers[rows],
            foils=self.foils[rows],
            positions={name: array[rows] for name, array in self.positions.items()},
            templates=tuple(self.templates[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            details={**self.details, "subset": [whole[row] for row in rows]},
            answer_texts=tuple(self.answer_texts[row] for row in rows),
            answer_sets=tuple(self.answer_sets[row] for row in rows),
            foil_sets=tuple(self.foil_sets[row] for row in rows),
        )

    @classmethod
    def from_pairs(
        cls,
        model: Model | PreTrainedTokenizerBase,
        pairs: Iterable[Mapping[str, Any] | Sequence[Any] | Pair],
        *,
        name: str = "pairs",
        details: Mapping[str, Any] | None = None,
        metric: str = "logit_diff",
    ) -> "Task":
        """A task from prompt pairs: dicts of the form in headlens.analyses.pairs, or tuples
        (clean, corrupted, answer, foil[, positions[, template]]).

        Each answer must be the one token that it adds to its clean prompt: mostly " word", with the space.
        ValueError names the prompt that does not fit, and why.
        """
        given = [as_pair(pair, f"Prompt {at}") for at, pair in enumerate(pairs)]
        fields = tokenize_pairs(tokenizer_of(model), given, name)
        made_with = {"prepend_bos": fields.pop("prepend_bos"), **(details or {})}
        task = cls(name=name, **fields, details=made_with, metric=metric)
        task.check_vocabulary(vocabulary_of(model))
        return task

    @classmethod
    def from_padded(
        cls,
        clean: Tensor,
        corrupted: Tensor,
        attention_mask: Tensor,
        answers: Tensor,
        foils: Tensor,
        *,
        positions: Mapping[str, Tensor] | None = None,
        name: str = "padded",
    ) -> "Task":
        """A task from a tokenizer's padded batch, [prompt, pos] each, padded on either side; `attention_mask` is 1 at
        real tokens, the same for both prompts of a pair. `positions` count the padding, the task's do not.

        ValueError for a mask of another shape, or with padding between tokens.
        """
        lengths, starts = real_part(attention_mask, clean)
        shifted = {name: array - starts for name, array in (positions or {}).items()}
        clean, corrupted = (moved_to_front(rows, starts, lengths) for rows in (clean, corrupted))
        return cls(name, clean, corrupted, lengths, answers, foils, shifted)

    def check_vocabulary(self, size: int) -> None:
        """ValueError if the task uses a token id that a vocabulary of this size does not have."""
        check_ids(self._tokens, self.lengths, self._rows, self._sets, size)

    @classmethod
    def from_jsonl(
        cls,
        model: Model | PreTrainedTokenizerBase,
        path: str | Path,
        *,
        name: str | None = None,
        metric: str = "logit_diff",
    ) -> "Task":
        """A task from a file with one JSON object a line, in the form described in headlens.analyses.pairs.

        The name is the file's unless given. ValueError names the line that is wrong.
        """
        name = Path(path).stem if name is None else name
        return cls.from_pairs(model, read_pairs(path), name=name, metric=metric)

    def to_jsonl(self, path: str | Path) -> None:
        """Write the pairs in the form `from_jsonl` reads; as token ids where the task has no text, and sets always."""
        write_pairs(path, (self._pair(prompt) for prompt in range(len(self))))

    def _pair(self, prompt: int) -> Pair:
        length = int(self.lengths[prompt])
        positions = {name: int(array[prompt]) for name, array in self.positions.items()}
        if torch.equal(self.positions["END"], self.lengths - 1):
            del positions["END"]
        return Pair(
            clean=self.texts[prompt][0] or self.clean_tokens[prompt, :length].tolist(),
            corrupted=self.texts[prompt][1] or self.corrupted_tokens[prompt, :length].tolist(),
            answer=self.answer_texts[prompt][0] or int(self.answers[prompt]),
            foil=self.answer_texts[prompt][1] or int(self.foils[prompt]),
            positions=positions,
            template=self.templates[prompt],
            prepend_bos=self.details.get("prepend_bos"),
            answer_set=self.answer_sets[prompt] if self.has_sets else (),
            foil_set=self.foil_sets[prompt] if self.has_sets else (),
        )


def _sets_of_one(tokens: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple((token,) for token in tokens.tolist())


def _sorted_sets(sets: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted({int(token) for token in tokens})) for tokens in sets)
