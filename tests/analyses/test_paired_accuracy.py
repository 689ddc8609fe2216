"""McNemar's test against scipy's binomial test and a permutation by hand; the interval against a loop, its coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from headlens.analyses.paired_accuracy import (
    accuracy_gain,
    fixed_and_broken,
    gain_in_points,
    gain_interval,
    mcnemar,
    mcnemar_greater,
)


def answers(items, *candidates, seed=0, right=0.6, changed=0.3):
    """Draw which items are right before, and after each candidate changed some."""
    draw = np.random.default_rng(seed)
    before = draw.random(items) < right
    return before, before ^ (draw.random((*candidates, items)) < changed)


def with_counts(fixed, broken, items=40):
    """Build items of which the first were fixed, the next broken, and the rest stay, right and wrong in turn."""
    before, after = np.arange(items) % 2 == 0, np.arange(items) % 2 == 0
    before[:fixed], after[:fixed] = False, True
    before[fixed : fixed + broken], after[fixed : fixed + broken] = True, False
    return before, after


def templated(draw, templates=24, of_each=4, fixing=0.6, breaking=0.3):
    """Half right items, of templates that differ in how easily theirs are fixed or broken (up to these shares)."""
    shares = [np.repeat(draw.uniform(0, most, templates), of_each) for most in (fixing, breaking)]
    # one draw for all items of a template: low ones fix what is wrong, high ones break what is right
    chance = np.repeat(draw.random(templates), of_each)
    before = draw.random(templates * of_each) < 0.5
    template = [str(item // of_each) for item in range(len(before))]
    return before, np.where(before, chance < 1 - shares[1], chance < shares[0]), template


@pytest.mark.parametrize("candidates", [(), (7,), (3, 2)])
def test_counts_and_points_equal_a_loop_over_items(candidates):
    before, after = answers(13, *candidates)
    fixed, broken = fixed_and_broken(before, after)
    for at in np.ndindex(*candidates):
        pairs = list(zip(before.tolist(), after[at].tolist(), strict=True))
        assert (fixed[at], broken[at]) == (pairs.count((False, True)), pairs.count((True, False)))
        right = [sum(side) / 13 for side in zip(*pairs, strict=True)]
        assert gain_in_points(before, after)[at] == pytest.approx(100 * (right[1] - right[0]), abs=1e-9)
    assert gain_in_points(before, after).shape == mcnemar(before, after).shape == candidates


def test_p_is_that_of_scipys_binomial_test():
    counts = [*itertools.product(range(8), range(8)), (20, 9), (9, 20), (3, 30)]
    pairs = [with_counts(*each, items=60) for each in counts]
    # the pairs differ in what was right before, so they are tested one at a time
    for (fixed, broken), (before, after) in zip(counts, pairs, strict=True):
        if fixed + broken == 0:
            assert mcnemar(before, after) == mcnemar_greater(before, after) == 1
            continue
        for found, alternative in ((mcnemar, "two-sided"), (mcnemar_greater, "greater")):
            known = stats.binomtest(fixed, fixed + broken, alternative=alternative).pvalue
            assert found(before, after) == pytest.approx(known, rel=1e-10), (fixed, broken, alternative)


def test_p_is_the_share_of_relabelled_runs_that_differ_as_much():
    before, after = answers(9, 6, seed=3)
    for candidate, p, one_sided in zip(after, mcnemar(before, after), mcnemar_greater(before, after), strict=True):
        gains = []
        # which of an item's two answers is called before and which after
        for swapped in itertools.product([False, True], repeat=9):
            first, second = np.where(swapped, candidate, before), np.where(swapped, before, candidate)
            gains.append(int(second.sum()) - int(first.sum()))
        observed = int(candidate.sum()) - int(before.sum())
        assert p == pytest.approx(np.mean(np.abs(gains) >= abs(observed)))
        assert one_sided == pytest.approx(np.mean(np.array(gains) >= observed))


def test_many_candidates_are_as_many_single_ones():
    before, after = answers(50, 5, 4, seed=1)
    templates = [f"template {item % 12}" for item in range(50)]
    interval = gain_interval(before, after, templates, 0.9, 300, seed=2)
    for at in np.ndindex(5, 4):
        alone = accuracy_gain(before, after[at], templates, 0.9, 300, seed=2)
        np.testing.assert_allclose(alone.interval, (interval.low[at], interval.high[at]), rtol=1e-5)
        assert alone.p == mcnemar(before, after)[at] and alone.points == gain_in_points(before, after)[at]


def test_p_holds_for_items_by_themselves_and_not_for_templates():
    draw, alone, together = np.random.default_rng(4), [], []
    for _ in range(500):
        # as likely to be fixed as to be broken: there is no gain
        alone.append(mcnemar(*templated(draw, 96, of_each=1, fixing=0.3)[:2]))
        together.append(mcnemar(*templated(draw, fixing=0.3)[:2]))
    assert 0.01 < np.mean(np.array(alone) <= 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 500)
    assert np.mean(np.array(together) <= 0.05) > 0.1


def by_loop(before, after, clusters, level, resamples, seed):
    """The same resampling, one resample at a time, from the accuracies of the drawn items."""
    names = sorted(set(clusters))
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=resamples)
    gains = []
    for counts in drawn:
        items = []
        for name, times in zip(names, counts, strict=True):
            items += [item for item, own in enumerate(clusters) if own == name] * times
        gains.append(100 * (after[items].mean() - before[items].mean()))
    return np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])


def test_the_interval_equals_a_loop_over_resamples():
    before, after = answers(17, seed=5)
    templates = list("abcdeabcdeaabbcde")
    found = accuracy_gain(before, after, templates, 0.8, 60, seed=7)
    np.testing.assert_allclose(found.interval, by_loop(before, after, templates, 0.8, 60, 7), rtol=1e-5)
    assert found.method == "exact McNemar test, percentile bootstrap over 5 templates, 60 resamples, seed 7"
    items = [f"{item:02}" for item in range(17)]
    singly = by_loop(before, after, items, 0.8, 60, 7)
    for clusters in ((), ["same"] * 17):
        found = accuracy_gain(before, after, clusters, 0.8, 60, seed=7)
        np.testing.assert_allclose(found.interval, singly, rtol=1e-5)
        assert "over 17 prompts" in found.method


def test_intervals_cover_the_true_gain_about_as_often_as_they_say():
    draw, trials = np.random.default_rng(6), 300
    clustered = singly = 0
    for trial in range(trials):
        before, after, template = templated(draw)
        # half are wrong, of which 0.3 are fixed on average, and half right, of which 0.15 are broken
        low, high = accuracy_gain(before, after, template, 0.9, 400, trial).interval
        clustered += low <= 7.5 <= high
        low, high = accuracy_gain(before, after, (), 0.9, 400, trial).interval
        singly += low <= 7.5 <= high
    assert 0.83 < clustered / trials < 0.95
    # items that change together do not count as so many witnesses
    assert singly / trials < 0.8


def test_an_interval_without_width_is_none():
    nothing, some = with_counts(0, 0), with_counts(1, 0)
    found = accuracy_gain(*nothing)
    assert np.isnan(found.interval).all() and found.points == 0 and found.p == 1
    assert found.described() == (
        "Accuracy went from 50.0% to 50.0%, +0.0 points (no interval; p = 1): of 40 items 0 were fixed and 0 broken "
        "(exact McNemar test, percentile bootstrap over 40 prompts, 2000 resamples, seed 0)."
    )
    assert accuracy_gain(*some).interval[0] == 0 and accuracy_gain(*some).interval[1] > 2.5
    together = gain_interval(nothing[0], np.stack([nothing[1], ~nothing[0]]))
    # every second item was fixed and every other one broken: there the width is largest
    assert np.isnan(together.low).tolist() == np.isnan(together.high).tolist() == [True, False]


def test_a_gain_in_one_sentence():
    before, after = with_counts(9, 1)
    found = accuracy_gain(before, after, level=0.995)
    assert (found.items, found.fixed, found.broken, found.points) == (40, 9, 1, 20.0)
    assert found.before == before.mean() and found.after == after.mean() and found.after > found.before
    low, high = found.interval
    assert 0 < low < 20 < high
    assert found.described() == (
        f"Accuracy went from 40.0% to 60.0%, +20.0 points (99.5% interval {low:+.1f} to {high:+.1f}; p = 0.021): of 40 "
        "items 9 were fixed and 1 broken (exact McNemar test, percentile bootstrap over 40 prompts, 2000 resamples, "
        "seed 0)."
    )
    back = accuracy_gain(after, before)
    assert (back.fixed, back.broken, back.points, back.p) == (1, 9, -20.0, found.p)
    assert mcnemar_greater(before, after) < 0.05 < 0.9 < mcnemar_greater(after, before)


RIGHT = np.ones(4, bool)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: mcnemar(RIGHT, np.ones((2, 4))), "after is float64; expected booleans"),
        (lambda: mcnemar(RIGHT.astype(np.int8), RIGHT), "before is int8"),
        (lambda: mcnemar_greater(RIGHT, RIGHT[:3]), r"before has the shape \[4\] and after \[3\]"),
        (lambda: gain_in_points(RIGHT[None], RIGHT), r"before has the shape \[1, 4\]"),
        (lambda: mcnemar(RIGHT[:0], RIGHT[:0]), "at least one"),
        (lambda: accuracy_gain(RIGHT, RIGHT[None]), "one candidate"),
        (lambda: accuracy_gain(RIGHT[:1], RIGHT[:1]), "at least 2 items"),
        (lambda: accuracy_gain(RIGHT, RIGHT, ["a"]), "1 clusters were given for 4 items"),
        (lambda: accuracy_gain(RIGHT, RIGHT, level=95.0), "level=95"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask()
