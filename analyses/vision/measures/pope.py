"""POPE's questions (2305.10355) by logits: does the model hold yes or no for likelier as its next token?"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from tqdm import tqdm

from headlens.analyses.tokens import tokenizer_of
from headlens.analyses.vision.measures.yes_no import YesNo
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.vision.under import Under, edits_for
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model


def pope(model: Model, samples: Samples, *, under: Under = (), batch: int = 32, progress: bool = False) -> YesNo:
    """Margins of yes over no at the last token of each prompt, under edits.

    A word's logit is the log of the summed exponentials over its spellings that are one token ("yes", "Yes", " YES"),
    so a margin is the log of P(yes, however spelt) / P(no, however spelt). No answer is left out: where something else
    is likelier than both, `valid` is False. Departure from POPE: it reads the words of a generated answer, for which
    see `pope_said`.

    Args:
        model: a vision-language model.
        samples: questions whose answers are "yes" or "no".
        under: edits for all, or a function from the indices of a batch to its edits (`reinforce(...).edits`).
        batch: samples that run together, where they are of equal length.
        progress: show a bar.

    Raises:
        ValueError: for no samples or batch < 1, an answer that is neither word, or a tokenizer in which a word is no
            single token.
    """
    truth = truths(samples)
    if batch < 1:
        raise ValueError(f"batch={batch} was given; expected how many samples run together, at least 1.")
    yes, no = (word_tokens(model, word) for word in ("yes", "no"))
    margins, valid = np.full(len(samples), np.nan, np.float32), np.zeros(len(samples), bool)
    spared = known_words(model.hf, logits_to_keep=1, use_cache=False)
    with tqdm(total=len(samples), unit=" samples", desc="pope", disable=not progress) as bar:
        for indices, inputs in samples.batches(batch):
            with torch.no_grad(), model.edited(*edits_for(under, indices)):
                logits = model(inputs, **spared)[:, -1].float()
            margin = logits[:, [*yes]].logsumexp(-1) - logits[:, [*no]].logsumexp(-1)
            margins[indices] = margin.cpu().numpy()
            valid[indices] = np.isin(logits.argmax(-1).cpu().numpy(), [*yes, *no])
            bar.update(len(indices))
    return YesNo(margins, truth, valid, samples.clusters, {"analysis": "pope", **samples_origin(model, samples)})


def truths(samples: Samples) -> Bool[np.ndarray, " sample"]:
    """Whether yes is right. ValueError for no samples, and for an answer that is neither yes nor no."""
    if not len(samples):
        raise ValueError("There are no samples; give some questions.")
    for at, answer in enumerate(samples.answers):
        if answer not in ("yes", "no"):
            raise ValueError(f"The answer of sample {at} is {answer!r}; expected 'yes' or 'no' of every question.")
    return np.array([answer == "yes" for answer in samples.answers])


def word_tokens(model: Model, word: str) -> Sequence[int]:
    """Every token that is this word and nothing else but space around it, in capitals or not.

    Tokens without the space that usually stands in front count too, as a prompt may end with a newline. ValueError
    where there is none.
    """
    tokenizer = tokenizer_of(model)
    special = {*tokenizer.all_special_ids}
    alike = [token for text, token in tokenizer.get_vocab().items() if word in text.lower() and token not in special]
    found = sorted(token for token in alike if str(tokenizer.decode([token])).strip().lower() == word)
    if not found:
        raise ValueError(
            f"The tokenizer of {model.name} has no single token for {word!r}, in whatever spelling; use pope_said, "
            "which reads generated text."
        )
    return found
