"""Where a prompt names its own answer and foil, and how much END attends there."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from headlens.analyses.end_runs import end_runs
from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.analyses.tokens import tokenizer_of
from headlens.hooks.model import Model
from headlens.hooks.sites import Site

# What a tokenizer makes of bytes that are no text.
_NO_TEXT = "\ufffd"


@dataclass(frozen=True, eq=False)
class NamedWords:
    """The places at which each clean prompt, up to its END, holds its answer and its foil."""

    answer: Bool[np.ndarray, "prompt pos"]
    foil: Bool[np.ndarray, "prompt pos"]


def named_words(model: Model, task: Task) -> NamedWords:
    """Find them by what tokens say: the same token, or one with the same letters but for the space in front; where a
    prompt has none of these, one with the same letters in another case (" Blue" for " blue").

    A model without a tokenizer is asked for the same token alone. A prompt may have no such place.
    """
    ends = task.positions["END"].tolist()
    rows = [row[: end + 1] for row, end in zip(task.clean_tokens.tolist(), ends, strict=True)]
    answers, foils = task.answers.tolist(), task.foils.tolist()
    words = _words(model, {*answers, *foils}.union(*rows))
    found = []
    for wanted in (answers, foils):
        marked = np.zeros((len(task), max(ends) + 1), bool)
        for prompt, (row, token) in enumerate(zip(rows, wanted, strict=True)):
            marked[prompt, _places(row, token, words)] = True
        found.append(marked)
    return NamedWords(*found)


def attention_to_words(model: Model, task: Task, memory: str | int | None = "1GiB") -> dict[str, HeadMap]:
    """How much of its attention each head gives, at END of the clean prompts, to the places that hold the answer
    ("to_answer") and the foil ("to_foil"), as in 2211.00593, section 3.

    Returns:
        Two HeadMaps over (layer, head) of shares, 0 to 1. `samples` are the prompts' own shares, NaN for a prompt that
        does not hold the word (`named_words`), and `values` their mean over those that do.
    """
    words = named_words(model, task)
    marked = {"answer": words.answer, "foil": words.foil}
    samples = {word: np.full((len(task), model.n_layers, model.n_heads), np.nan, np.float32) for word in marked}
    for end in end_runs(model, task, "clean", [Site("pattern", layer) for layer in range(model.n_layers)], memory):
        prompts = [*end.prompts]
        for layer in range(model.n_layers):
            pattern = end.at("pattern", layer).cpu()
            for word, places in marked.items():
                here = torch.from_numpy(places[prompts, : pattern.shape[-1]])
                share = (pattern * here[:, None]).sum(-1).numpy()
                samples[word][prompts, layer] = np.where(here.any(-1, keepdim=True).numpy(), share, np.nan)
    return {
        f"to_{word}": HeadMap.from_samples(
            own,
            dims=("layer", "head"),
            name=f"attention of END to the {word}",
            units="share of END's attention",
            sign=f"Larger means that END attends more to where the prompt holds its {word}.",
            clusters=task.templates,
            provenance={**origin(model, task), "run": "clean", "word": word, "paper": "2211.00593"},
        )
        for word, own in samples.items()
    }


def _words(model: Model, tokens: set[int]) -> dict[int, str]:
    """What these tokens say, without spaces around; those that say nothing readable are left out."""
    if model.tokenizer is None:
        return {}
    different = sorted(tokens)
    texts = tokenizer_of(model).batch_decode([[token] for token in different])
    stripped = {token: text.strip() for token, text in zip(different, texts, strict=True)}
    return {token: text for token, text in stripped.items() if text and _NO_TEXT not in text}


def _places(row: list[int], token: int, words: Mapping[int, str]) -> list[int]:
    word = words.get(token)
    same = [at for at, own in enumerate(row) if own == token or (word is not None and words.get(own) == word)]
    if same or word is None:
        return same
    return [at for at, own in enumerate(row) if words.get(own, "").casefold() == word.casefold()]
