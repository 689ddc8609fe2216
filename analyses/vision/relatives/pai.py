"""PAI, paying more attention to the image (2407.21771): scores of the newest row, raised at image patches.

    pai          s_j <- s_j + alpha |s_j|              j an image patch
    pai_centred  s_j <- s_j + alpha |s_j - m|          m the mean of the row's visible scores

s are the scaled scores before softmax. Softmax does not change when a constant is added to a row, but |s_j| does: in
the paper's form, how strongly a row is pushed depends on an offset that means nothing to the model. The second form
does not, and is ours. In both each patch's logit can but grow (for alpha > 0) while the others stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.relatives.image_scores import (
    ImageScores,
    Rule,
    check_finite,
    chosen_heads,
    image_positions,
)
from headlens.hooks.clock import Clock
from headlens.hooks.edits import Call, Heads, Pos
from headlens.hooks.model import Model


def pai(
    model: Model,
    alpha: float = 0.2,
    *,
    layers: Sequence[int] | None = None,
    heads: Heads | None = None,
    since: Pos = None,
) -> Call:
    """The edit s_j <- s_j + alpha |s_j| at image patches j of each newest row, before softmax (PAI, 2407.21771).

    The newest row is the last token of the prompt, and then each token as it is generated; padding is not counted. So
    an answer is generated with a cache: without one (`use_cache=False`) each step would edit its last row alone, and
    leave the rows before it as they were. `since` names the first edited row instead, such as the last of the prompt:
    one run over prompt and answer is then what the cached steps are (name it too where prompts are read in chunks).
    Patches are found by their token in each run, so samples may run together, with several pictures each; a prompt
    without any is not changed. A run in which scores are written forms whole patterns, so rows that are not edited
    agree with a plain run's to rounding, and bit for bit with one under a hook of scores that changes nothing.

    More attention to patches is no evidence of better answers: report what this does beside the area under the curve,
    recall and length. `guidance` has the other half of PAI.

    Departures from the authors' code: hidden keys stay hidden (there scores of -3e38 are clamped and take part), image
    patches need not be one run of positions, and grouped queries work.

    Args:
        alpha: the strength, a share of a score's magnitude; 0 changes nothing, less than 0 looks away. The code's
            default is 0.2; the paper has 0.5 for LLaVA-1.5.
        layers: which to edit; without them all but 0 and 1, as the code's 2 to 31 of 32.
        heads: which to edit, in place of all heads of `layers`.
        since: the first edited row by absolute position, one or one for each prompt.

    Raises:
        ValueError: for a model that names no image token, an alpha that is not finite, both layers and heads or none;
            in a run from embeddings.
    """
    return _raising(model, alpha, layers, heads, since, by_size)


def pai_centred(
    model: Model,
    alpha: float = 0.2,
    *,
    layers: Sequence[int] | None = None,
    heads: Heads | None = None,
    since: Pos = None,
) -> Call:
    """`pai` with |s_j - m| in place of |s_j|, m the mean of the scores that the row can see: a constant added to the
    scores of a row changes nothing. This form is not in the paper."""
    return _raising(model, alpha, layers, heads, since, by_distance)


def by_size(
    scores: Float[Tensor, "batch head row key"],
    strength: Float[Tensor, "batch 1 1 key"],
    visible: Bool[Tensor, "batch head row key"],
) -> Float[Tensor, "batch head row key"]:
    """s + strength |s|; `visible` plays no part."""
    return scores + strength * scores.abs()


def by_distance(
    scores: Float[Tensor, "batch head row key"],
    strength: Float[Tensor, "batch 1 1 key"],
    visible: Bool[Tensor, "batch head row key"],
) -> Float[Tensor, "batch head row key"]:
    """s + strength |s - m|, m the mean over a row's visible keys."""
    mean = torch.where(visible, scores, 0).sum(-1, keepdim=True) / visible.sum(-1, keepdim=True).clamp(min=1)
    return scores + strength * (scores - mean).abs()


@dataclass(frozen=True)
class _AtPatches:
    token: int
    alpha: float

    def __call__(self, clock: Clock) -> Float[Tensor, "batch pos"]:
        return image_positions(clock, self.token).float() * self.alpha


def _raising(
    model: Model, alpha: float, layers: Sequence[int] | None, heads: Heads | None, since: Pos, rule: Rule
) -> Call:
    check_finite(alpha=alpha)
    (token,) = image_tokens(model).ids
    return ImageScores(model, chosen_heads(model, layers, heads), _AtPatches(token, alpha), rule, since).edit()
