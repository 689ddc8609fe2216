"""Made-up answers to questions about scenes, one true and one false question of each, with the rates that are asked."""

import numpy as np

from headlens.analyses.vision.measures.yes_no import YesNo


def answers(seed=1, fpr=0.0, recall=1.0, n=20, shift=0.0, spread=0.0):
    """Margins of 2 for yes (3 where that is wrong) and -2 for no, with `shift` more and noise of `spread`.

    The first scenes are those that are answered yes.
    """
    wrong, right = round(fpr * n), round(recall * n)
    there = np.where(np.arange(n) < right, 2.0, -2.0)
    absent = np.where(np.arange(n) < wrong, 3.0, -2.0)
    margins = np.concatenate([there, absent]) + shift
    margins += spread * np.random.default_rng(seed).standard_normal(2 * n)
    truth = np.repeat([True, False], n)
    names = tuple(f"seed {seed} scene {at}" for at in range(n)) * 2
    return YesNo(margins.astype(np.float32), truth, np.ones(2 * n, bool), names)
