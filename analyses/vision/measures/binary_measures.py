"""Measures of yes-or-no answers against the truth, for samples that count once or, in resamples, several times.

Each is taken over the last dim, with `weights` [*resample, sample] that say how often each sample counts; NaN where it
is not defined, such as a recall without positives. "Yes" is the positive class.
"""

import numpy as np
from jaxtyping import Bool, Float

Weights = Float[np.ndarray, "*resample sample"]
Measured = Float[np.ndarray, "*resample"]


def share(weights: Weights, of: Bool[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"]) -> Measured:
    """Those of `among` that are `of` too, over all of `among`."""
    return divided(weights @ (of & among).astype(np.float64), weights @ among.astype(np.float64))


def mean(weights: Weights, values: Float[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"]) -> Measured:
    """The mean of values over `among`."""
    return divided(weights @ np.where(among, values, 0.0), weights @ among.astype(np.float64))


def f1(weights: Weights, yes: Bool[np.ndarray, " sample"], truth: Bool[np.ndarray, " sample"]) -> Measured:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; NaN where nothing is or is said to be yes."""
    return divided(2 * (weights @ (yes & truth).astype(np.float64)), weights @ (yes.astype(np.float64) + truth))


def auroc(weights: Weights, scores: Float[np.ndarray, " sample"], truth: Bool[np.ndarray, " sample"]) -> Measured:
    """The share of pairs, one of each class, in which the positive scores higher; equal scores count half.

    The area under the ROC curve by ranks (Mann and Whitney), which no threshold and no constant added to all changes.
    """
    if not len(scores):
        return np.full(weights.shape[:-1], np.nan)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    there, absent = (
        np.add.reduceat(np.where(which, weights[..., order], 0.0), starts, axis=-1)
        for which in (truth[order], ~truth[order])
    )
    below = absent.cumsum(-1) - absent
    return divided((there * (below + absent / 2)).sum(-1), there.sum(-1) * absent.sum(-1))


def divided(top: np.ndarray | np.floating, below: np.ndarray | np.floating) -> Measured:
    """top / below, NaN where below is 0."""
    above, under = np.asarray(top, np.float64), np.asarray(below, np.float64)
    return np.asarray(np.divide(above, under, out=np.full(above.shape, np.nan), where=under != 0))
