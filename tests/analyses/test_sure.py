"""Which cells are still undecided: by their intervals, and how often a cell without effect is called decided."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.analyses.sure import level_per_look, undecided

ABOUT = {"name": "effect", "units": "logits", "sign": "Positive means: carries the clean behaviour."}


def constant_but_one(*values):
    """Make a map of these values at every prompt but for a small spread, so that intervals are narrow."""
    spread = np.linspace(-0.01, 0.01, 12)[:, None]
    return HeadMap.from_samples((np.array(values) + spread).astype(np.float32), dims=("head",), **ABOUT)


def test_a_cell_is_decided_on_one_side_of_both_lines():
    headmap = constant_but_one(0.0, 0.05, -0.05, 0.2, -0.2, 0.03, np.nan)
    assert undecided(headmap, 0.05).tolist() == [False, True, True, False, False, False, False]
    assert undecided(headmap, 0.0).tolist() == [True, False, False, False, False, False, False]


def test_an_interval_across_both_lines_is_undecided():
    wide = HeadMap.from_samples(np.array([[-9.0], [9.0], [8.0], [-8.0]], np.float32), dims=("head",), **ABOUT)
    assert undecided(wide, 0.1).tolist() == [True]


def test_touching_the_line_is_not_crossing_it():
    exact = HeadMap.from_samples(np.repeat([[0.0, 0.5, -0.5]], 6, 0).astype(np.float32), dims=("head",), **ABOUT)
    assert not undecided(exact, 0.0).any() and not undecided(exact, 0.5).any()


def test_a_higher_level_leaves_more_open():
    samples = np.random.default_rng(0).normal(0.5, 1, size=(16, 200)).astype(np.float32)
    headmap = HeadMap.from_samples(samples, dims=("head",), **ABOUT)
    some, more = undecided(headmap, 0.0, 0.8), undecided(headmap, 0.0, 0.999)
    assert 0 < some.sum() < more.sum() and not (some & ~more).any()


def test_looks_share_the_error():
    assert level_per_look(0.95, 1) == pytest.approx(0.95)
    assert level_per_look(0.9, 4) == pytest.approx(0.975)


def test_looking_again_and_again_seldom_decides_a_cell_without_effect():
    looks, cells = (12, 18, 24, 30), 400
    samples = np.random.default_rng(1).normal(size=(30, cells)).astype(np.float32)
    wrong = {}
    for level in (0.9, level_per_look(0.9, len(looks))):
        maps = [HeadMap.from_samples(samples[:look], dims=("head",), **ABOUT) for look in looks]
        wrong[level] = 1 - np.mean(np.all([undecided(headmap, 0.0, level) for headmap in maps], axis=0))
    naive, shared = wrong.values()
    # percentile intervals are somewhat narrow, hence a little above 0.1
    assert shared < 0.14 < naive


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: undecided(constant_but_one(1.0), -0.1), "line=-0.1 was given"),
        (lambda: undecided(constant_but_one(1.0), float("nan")), "line=nan"),
        (lambda: undecided(constant_but_one(1.0), 0.0, 95.0), "level=95.0 was given"),
        (lambda: undecided(HeadMap(values=np.zeros(2), dims=("head",), **ABOUT), 0.0), "keeps no samples"),
        (lambda: level_per_look(0.95, 0), "looks=0 was given"),
        (lambda: level_per_look(1.0, 3), "level=1.0 was given"),
    ],
)
def test_wrong_questions_are_refused(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask()


def test_what_one_template_says_is_open():
    samples = np.array([[5.0, 5.0], [5.1, np.nan], [5.2, np.nan]], np.float32)
    headmap = HeadMap.from_samples(samples, dims=("head",), name="", units="", sign="")
    assert undecided(headmap, 1.0).tolist() == [False, True]
