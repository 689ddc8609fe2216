"""Verification: which cells are patched, that they are exact, and that what it says of the rest is true."""

import numpy as np
import pytest
from scipy import stats

from headlens.analyses import screening
from headlens.analyses.attribution import attribute
from headlens.analyses.patching import patch_sweep
from headlens.analyses.verification import verify
from tiny_models import held
from tiny_tasks import ragged_task, task_of


@pytest.mark.parametrize(
    ("site", "axes"), [("z", ("layer", "head")), ("v", ("layer", "head", "pos")), ("mlp_out", ("layer", "pos"))]
)
def test_the_first_and_a_sample_are_patched_exactly(site, axes):
    model, task = held("llama"), ragged_task()
    ranked = attribute(model, task, site=site, axes=axes, metric="prob")
    checked = verify(model, task, ranked, k=3, sample=6, seed=1, progress=False)
    exact = patch_sweep(model, task, site=site, axes=axes, metric="prob", progress=False)
    there = np.isfinite(checked.exact.values)
    assert 6 <= there.sum() <= 9
    np.testing.assert_allclose(checked.exact.values[there], exact.values[there], rtol=0, atol=1e-4)
    order = np.argsort(-np.abs(np.nan_to_num(ranked.values)), axis=None, kind="stable")
    assert there.reshape(-1)[order[:3]].all()


def test_what_is_said_of_the_sample():
    model, task = held("gpt2"), task_of("gpt2")
    ranked, exact = attribute(model, task), patch_sweep(model, task, progress=False)
    checked = verify(model, task, ranked, k=4, sample=12, progress=False)
    # the sample is all cells here
    want = stats.spearmanr(ranked.values.reshape(-1), exact.values.reshape(-1)).statistic
    assert checked.agreement == pytest.approx(want, abs=0.02) and checked.outside == 8
    low, high = checked.interval
    assert low < checked.agreement < high
    first = np.argsort(-np.abs(ranked.values), axis=None)[:4]
    line = np.abs(exact.values.reshape(-1)[first]).min()
    others = np.delete(np.abs(exact.values.reshape(-1)), first)
    assert checked.overlooked == (others >= line).sum()
    table = checked.to_frame()
    assert len(table) == 12 and sorted(table["ranked"]) == list(range(1, 13))
    assert f"{checked.agreement:+.2f}" in checked.described()


def test_a_misleading_ranking_is_found_out():
    model, task = held("llama"), task_of()
    exact = patch_sweep(model, task, progress=False)
    honest = attribute(model, task)
    upside_down = type(honest)(
        values=-1 / (np.abs(exact.values) + 1e-3),
        dims=honest.dims,
        name="upside down",
        units="",
        sign="",
        provenance=honest.provenance,
    )
    checked = verify(model, task, upside_down, k=4, sample=12, progress=False)
    assert checked.overlooked == 8 and checked.at_most == 1.0


def test_bounds_against_scipy():
    interval = stats.binomtest(2, 30).proportion_ci(0.9, method="exact")
    assert screening._upper_bound(2, 30) == pytest.approx(interval.high)
    assert screening._upper_bound(0, 0) == 1.0
    assert screening._fisher(1.0, 10) == (1.0, 1.0)


def test_the_interval_of_a_rank_correlation_holds_the_truth():
    draw, hits = np.random.default_rng(0), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's correlation of two normal variables correlated by 0.6
    for _ in range(400):
        pair = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20)
        low, high = screening._fisher(float(stats.spearmanr(*pair.T).statistic), 20)
        hits += low < truth < high
    # a little wide for samples this small
    assert 0.92 < hits / 400 < 0.995


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"k": 0}, "k=0 and"), ({"k": 13}, "has 12 cells"), ({"sample": 2}, "sample from 4")],
)
def test_numbers_out_of_range_are_refused(wrong, sentence):
    model, task = held("llama"), task_of()
    with pytest.raises(ValueError, match=sentence):
        verify(model, task, attribute(model, task), **{"k": 3, "sample": 5, **wrong}, progress=False)


def test_a_map_that_does_not_say_what_to_patch_is_refused():
    model, task = held("llama"), task_of()
    ranked = attribute(model, task)
    bare = type(ranked)(ranked.values, ranked.dims, "bare", "", "")
    with pytest.raises(ValueError, match="does not say its site"):
        verify(model, task, bare, k=3, sample=5, progress=False)


def test_a_function_must_be_given_again():
    model, task = held("llama"), task_of()

    def first(logits, task):
        return logits[..., 7]

    ranked = attribute(model, task, metric=first)
    with pytest.raises(ValueError, match="give it again"):
        verify(model, task, ranked, k=3, sample=5, progress=False)
    checked = verify(model, task, ranked, k=3, sample=5, metric=first, progress=False)
    assert np.isfinite(checked.exact.values).sum() >= 5
