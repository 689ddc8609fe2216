"""Which token stands at each position of a task's clean prompts, as text that fits under a picture."""

from collections import Counter

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.analyses.task import Task

_SIGNS = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def position_tokens(task: Task, tokenizer: PreTrainedTokenizerBase) -> list[list]:
    """`common_tokens` of the clean prompts."""
    return common_tokens(task.clean_tokens, task.lengths, tokenizer)


def common_tokens(
    ids: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"], tokenizer: PreTrainedTokenizerBase
) -> list[list]:
    """For each position [text, share]: its most common token, and the share of prompts that have it there.

    Prompts that end before a position do not count at it; a position that no prompt reaches is ["", 0.0]. Among equally
    common tokens the one of the earliest prompt is taken. Texts are as `readable` makes them.
    """
    rows, ends = ids.tolist(), lengths.tolist()
    found: list[list] = []
    for place in range(ids.shape[1]):
        column = [row[place] for row, end in zip(rows, ends, strict=True) if place < end]
        if not column:
            found.append(["", 0.0])
            continue
        token, count = Counter(column).most_common(1)[0]
        found.append([readable(tokenizer, token), count / len(column)])
    return found


def readable(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as one line of printable text.

    The space before a word is left out; a token of spaces alone shows them as ␣, line breaks are ⏎, tabs ⇥, and
    what cannot be printed, such as half a character, is �.
    """
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if not text.strip(" "):
        # sentencepiece's decoder drops a lone space
        return "␣" * max(len(text), 1)
    signs = (_SIGNS.get(character, character) for character in text.strip(" "))
    return "".join(sign if sign.isprintable() else _UNPRINTABLE for sign in signs)
