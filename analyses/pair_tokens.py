"""From pairs as written to the arrays of a task: tokenised, padded on the right, each pair checked."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task_checks import check_prompt, check_sets
from headlens.analyses.tokens import answer_token, encode, lead_in, pad_rows, padding_id


def tokenize_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], name: str) -> dict[str, Any]:
    """The arrays and texts of a Task, and whether a BOS precedes them; ValueError names the wrong pair."""
    if not pairs:
        raise ValueError(f"The task {name!r} has no prompts; give at least one pair.")
    first = pairs[0]
    if len({pair.prepend_bos for pair in pairs}) > 1:
        raise ValueError(f"The pairs of the task {name!r} disagree about prepend_bos; give them all the same.")
    before = lead_in(tokenizer, first.prepend_bos)

    def tokens(prompt: str | list[int]) -> list[int]:
        return [*before, *encode(tokenizer, prompt)] if isinstance(prompt, str) else prompt

    clean, corrupted = [tokens(pair.clean) for pair in pairs], [tokens(pair.corrupted) for pair in pairs]
    answers, foils, answer_sets, foil_sets = [], [], [], []
    for pair, row, other in zip(pairs, clean, corrupted, strict=True):
        if len(row) != len(other) or not row:
            raise ValueError(
                f"{pair.where}: the clean prompt has {len(row)} tokens and the corrupted one {len(other)}; "
                "a pair needs equal lengths of at least 1, so that its positions correspond."
            )
        if pair.positions.keys() != first.positions.keys():
            raise ValueError(
                f"{pair.where} names the positions {sorted(pair.positions)} and {first.where} "
                f"{sorted(first.positions)}; every pair of a task names the same."
            )
        answers.append(answer_token(tokenizer, pair.clean, pair.answer, pair.where))
        foils.append(answer_token(tokenizer, pair.clean, pair.foil, pair.where, "foil"))
        answer_sets.append(_set_of(tokenizer, pair, pair.answer_set, "answer") or (answers[-1],))
        foil_sets.append(_set_of(tokenizer, pair, pair.foil_set, "foil") or (foils[-1],))
        check_prompt(pair.where, len(row), pair.positions, answers[-1], foils[-1])
        check_sets(pair.where, answers[-1], foils[-1], answer_sets[-1], foil_sets[-1])
    return {
        "clean_tokens": pad_rows(clean, padding_id(tokenizer)),
        "corrupted_tokens": pad_rows(corrupted, padding_id(tokenizer)),
        "lengths": torch.tensor([len(row) for row in clean]),
        "answers": torch.tensor(answers),
        "foils": torch.tensor(foils),
        "positions": {at: torch.tensor([pair.positions[at] for pair in pairs]) for at in first.positions},
        "templates": tuple(pair.template or pair.where for pair in pairs),
        "texts": tuple((_text(pair.clean), _text(pair.corrupted)) for pair in pairs),
        "answer_texts": tuple((_text(pair.answer), _text(pair.foil)) for pair in pairs),
        "answer_sets": tuple(answer_sets),
        "foil_sets": tuple(foil_sets),
        "prepend_bos": bool(before) and any(isinstance(pair.clean, str) for pair in pairs),
    }


def _set_of(tokenizer: PreTrainedTokenizerBase, pair: Pair, given: Sequence[str | int], noun: str) -> tuple[int, ...]:
    return tuple(answer_token(tokenizer, pair.clean, token, pair.where, noun) for token in given)


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""
