"""Which of several pictures a model looks at while it answers (MIA-DPO, 2410.17637)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from headlens.analyses.vision.measures.binary_measures import auroc
from headlens.analyses.vision.relatives.answer_rows import answer_rows
from headlens.analyses.vision.relatives.picture_columns import picture_columns
from headlens.analyses.vision.replies import replies
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class ImageShares:
    """For each sample, `attention` [picture]: what a row of the answer gives to one token of a picture, in the mean;
    NaN where the answer has one token and so no such row. `asked` is the picture that a sample is about, `answers` the
    token ids that were read."""

    attention: tuple[Float32[np.ndarray, " _picture"], ...]
    asked: Int64[np.ndarray, " sample"]
    answers: tuple[Tensor, ...]
    layer: int
    clusters: tuple[str, ...]

    @cached_property
    def ratio(self) -> Float32[np.ndarray, " sample"]:
        """R: the asked picture's attention over the sum of all pictures', 0 to 1; 1 / pictures if it goes evenly."""
        pairs = zip(self.attention, self.asked, strict=True)
        sums = [(own[at], own.sum()) for own, at in pairs]
        return np.array([part / whole if whole > 0 else np.nan for part, whole in sums], np.float32)

    def auroc(self, wrong: Bool[np.ndarray, " sample"]) -> float:
        """How well a low R tells wrong answers: the probability that R is lower in a wrong answer than in a right one,
        ties counted half. 0.5 is chance, 1 perfect; samples without R are left out, and NaN if none are left on a side.
        """
        wrong = np.asarray(wrong, bool)
        if wrong.shape != self.ratio.shape:
            raise ValueError(f"wrong has shape {wrong.shape} for {len(self.ratio)} samples; give a boolean for each.")
        there = ~np.isnan(self.ratio)
        return float(auroc(np.ones(there.sum()), -self.ratio[there], wrong[there]))


def image_attention_share(
    model: Model,
    samples: Samples,
    asked: Sequence[int],
    *,
    answers: Sequence[Tensor | Sequence[int]] | None = None,
    max_new_tokens: int = 32,
    layer: int | None = None,
    batch: int = 8,
) -> ImageShares:
    """How much of the attention to pictures goes to the one that is asked about (2410.17637).

    R = a_asked / (sum of a_i over pictures), a_i the attention to picture i's tokens in one layer: mean over heads,
    over the rows of the answer's tokens, and over the picture's own tokens. As in the authors' code the row that says
    the first token, the prompt's last, is left out, and the last token's own row is never run.

    The code reads layer 16 of LLaVA-1.5-7B's 32, whatever the depth; here the middle one is the default. It has 576
    tokens a picture, and here each picture has those that it has, so that R compares means and not sums. A sink within
    a picture raises that picture's share whichever is asked about. The code keeps an answer as a rejected one where
    R is at most 0.8, 0.7, 0.6, 0.6 with 2, 3, 4, 5 pictures and the answer is wrong, short and not sure; that selection
    is not part of this.

    Args:
        model: a vision-language model whose pictures stand among its tokens.
        samples: prompts with two pictures or more.
        asked: for each sample the number, from 0, of the picture that it is about.
        answers: for each sample the token ids that were said; without, they are generated greedily.
        max_new_tokens: of generated answers.
        layer: which is read.
        batch: samples of equal length that run together.

    Returns:
        The pictures' attention, and `ratio`, R. Larger means that more goes to the picture that is asked about.

    Raises:
        ValueError: for a model that names no image token, no samples, another number of `asked` or answers than
            samples, a sample with fewer than two pictures, a picture that it does not have, or a layer that the model
            lacks.
    """
    pictures = [picture_columns(model, inputs) for inputs in samples.inputs]
    if len(asked) != len(samples) or not len(samples):
        raise ValueError(f"{len(asked)} asked pictures were given for {len(samples)} samples; give one for each.")
    for at, (own, which) in enumerate(zip(pictures, asked, strict=True)):
        if len(own) < 2:
            raise ValueError(
                f"Sample {at} has {len(own)} pictures; give two or more, between which attention is shared."
            )
        if not 0 <= which < len(own):
            raise ValueError(f"Sample {at} has pictures 0..{len(own) - 1}, and {which} was asked about.")
    chosen = model.n_layers // 2 if layer is None else layer
    if answers is None:
        answers = [one.whole for one in replies(model, samples, max_new_tokens, batch=batch)]
    rows = answer_rows(model, samples, answers, [chosen], batch=batch)
    attention = tuple(
        np.array([_mean(row[0, 1:, at]) for at in own], np.float32) for row, own in zip(rows, pictures, strict=True)
    )
    ids = tuple(torch.as_tensor(each, dtype=torch.long) for each in answers)
    return ImageShares(attention, np.array([*asked]), ids, chosen, samples.clusters)


def _mean(rows: Tensor) -> float:
    return float(rows.double().mean()) if len(rows) else float("nan")
