"""The tokens of some prompts as the reader sees them: their texts, what kind each is, and which come again later."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.hooks.token_kinds import kind_of

if TYPE_CHECKING:
    import pandas

DELIMITERS = ("punctuation", "newline")


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Every token of a padded batch. `ids` is None where the model was given none, such as an image.

    `texts` and `kinds` [prompt][pos] are empty where ids or a tokenizer are missing. A kind is special, newline, space,
    punctuation, number, word, or None for bytes that are no text. `first_repeats` are first occurrences of a token that
    comes again in its prompt.
    """

    ids: Int[Tensor, "prompt pos"] | None
    real: Bool[Tensor, "prompt pos"]  # False at padding
    texts: tuple[tuple[str, ...], ...]
    kinds: tuple[tuple[str | None, ...], ...]
    first_repeats: Bool[np.ndarray, "prompt pos"]

    @property
    def firsts(self) -> list[int]:
        """The position of each prompt's first token behind its padding."""
        return self.real.int().argmax(1).tolist()

    @property
    def usual(self) -> Bool[np.ndarray, "prompt pos"]:
        """Where sinks behind the first token are said to sit: punctuation, newlines and first repeats (2406.15765)."""
        usual = self.first_repeats.copy()
        for prompt, kinds in enumerate(self.kinds):
            usual[prompt] |= [kind in DELIMITERS for kind in kinds]
        return usual

    def text(self, prompt: int, pos: int) -> str:
        """A token's text, "" where it is not known."""
        return self.texts[prompt][pos] if self.texts else ""

    def kind(self, prompt: int, pos: int) -> str | None:
        """A token's kind, None where it is not known."""
        return self.kinds[prompt][pos] if self.kinds else None

    def to_frame(self) -> "pandas.DataFrame":
        """One row per token, padding left out: prompt, pos, token, kind, first_repeat."""
        import pandas

        at = [(int(prompt), int(pos)) for prompt, pos in self.real.nonzero()]
        return pandas.DataFrame(
            {
                "prompt": [prompt for prompt, _ in at],
                "pos": [pos for _, pos in at],
                "token": [self.text(*place) for place in at],
                "kind": [self.kind(*place) for place in at],
                "first_repeat": [bool(self.first_repeats[place]) for place in at],
            }
        )


def prompt_tokens(
    tokenizer: Any, ids: Int[Tensor, "prompt pos"] | None, real: Bool[Tensor, "prompt pos"]
) -> PromptTokens:
    """What is known of these tokens; without a tokenizer (or its processor) they have no texts and kinds."""
    real = real.cpu()
    if ids is None:
        return PromptTokens(None, real, (), (), np.zeros(tuple(real.shape), bool))
    ids = ids.cpu()
    repeats = _first_repeats(ids, real)
    if tokenizer is None:
        return PromptTokens(ids, real, (), (), repeats)
    # a processor carries the tokenizer of its text
    words = getattr(tokenizer, "tokenizer", tokenizer)
    different = sorted({*ids.flatten().tolist()})
    texts = dict(zip(different, words.batch_decode([[token] for token in different]), strict=True))
    special = {*words.all_special_ids}
    kinds = {token: "special" if token in special else kind_of(text) for token, text in texts.items()}
    rows = ids.tolist()
    return PromptTokens(
        ids,
        real,
        tuple(tuple(texts[token] for token in row) for row in rows),
        tuple(tuple(kinds[token] for token in row) for row in rows),
        repeats,
    )


def _first_repeats(ids: Int[Tensor, "prompt pos"], real: Bool[Tensor, "prompt pos"]) -> Bool[np.ndarray, "prompt pos"]:
    found = torch.zeros_like(real)
    for prompt, (row, own) in enumerate(zip(ids.tolist(), real.tolist(), strict=True)):
        places = [at for at, there in enumerate(own) if there]
        often = Counter(row[at] for at in places)
        # walking backwards, the last word on a token is its first place
        first = {row[at]: at for at in reversed(places)}
        found[prompt, [at for token, at in first.items() if often[token] > 1]] = True
    return found.numpy()
