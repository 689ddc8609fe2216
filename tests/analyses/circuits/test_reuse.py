"""Stages back from the logits, and what two tasks share in them."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.circuits.reuse import reuse
from headlens.analyses.circuits.stages import STAGES, Stage, on_top, share_of, stage_maps
from headlens.analyses.headmap import HeadMap
from headlens.analyses.paths.path_patching import path_patch
from planted_circuit import planted_model, planted_task
from tiny_models import held
from tiny_tasks import task_of

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def planted():
    return planted_model(), planted_task()


def test_each_stage_receives_what_the_one_before_put_on_top():
    model, task = held("llama"), task_of("llama")
    maps = stage_maps(model, task, 0.26, **QUIET)
    movers = on_top(maps["logits"], 0.26)
    late = [head for head in movers if not head.startswith("L0")]
    assert len(movers) == share_of(maps["logits"], 0.26) == 3 and 0 < len(late) < 3
    expected = path_patch(model, task, [(head, "q") for head in late], positions="END", **QUIET)
    assert np.array_equal(maps["queries"].values, expected.values, equal_nan=True)
    # nobody speaks to the first layer, where all that are on top of the third stage are
    assert [*maps] == ["logits", "queries", "values"]


def test_stages_find_the_planted_chain(planted):
    stages = (Stage("logits"), Stage("keys", "logits", ("k",)))
    maps = stage_maps(*planted, 1 / 6, stages, **QUIET)
    assert on_top(maps["logits"], 1 / 6) == ("L1H1",) and on_top(maps["keys"], 1 / 6) == ("L0H0",)
    # embeddings reach the queries, heads do not
    found = stage_maps(*planted, 1 / 6, STAGES, **QUIET)
    assert np.nanmax(np.abs(found["queries"].values)) < 0.01


def test_a_task_may_have_positions_of_its_own():
    model, task = held("llama"), task_of("llama")
    stages = (Stage("logits"), Stage("values", "logits", ("v",)))
    maps = stage_maps(model, task, 0.5, stages, positions={"values": [5]}, **QUIET)
    heads = [head for head in on_top(maps["logits"], 0.5) if not head.startswith("L0")]
    expected = path_patch(model, task, [(head, "v") for head in heads], positions=5, **QUIET)
    assert np.array_equal(maps["values"].values, expected.values, equal_nan=True)


def test_a_task_shares_everything_with_itself(planted):
    model, task = planted
    stages = (Stage("logits"), Stage("keys", "logits", ("k",)))
    found = reuse(model, [task, replace(task, name="again")], 1 / 6, stages=stages, **QUIET)
    assert found.accuracy == {"planted": 1.0, "again": 1.0} and found.stages == ("logits", "keys")
    shared = found.overlap("planted", "again")
    assert shared["all"].shared == ("logits L1H1", "keys L0H0") and shared["all"].fraction == 1
    assert shared["all"].p == pytest.approx(1 / 9)
    frame = found.to_frame(shares=[1 / 6, 0.5])
    assert len(frame) == 2 * 3 and (frame.fraction == 1).all() and (frame.p <= 1).all()
    ranks = found.ranks(draws=20)
    assert np.allclose(ranks.overlap, 1) and (ranks.chance_mean < 1).all()
    assert np.allclose(np.nan_to_num(found.difference("keys", "planted", "again").values), 0)
    assert found.stability("keys", "planted").values[0, 0] == pytest.approx(1, abs=0.1)
    assert "2 of 2 shared (100%" in found.described()


def test_importance_is_a_share_of_the_largest_effect(planted):
    model, task = planted
    found = reuse(model, [task, replace(planted_task(seed=7), name="other")], 0.4, stages=STAGES[:1], **QUIET)
    first, second = (found.maps["logits"][name].values for name in ("planted", "other"))
    expected = np.abs(first) / np.abs(first).max() - np.abs(second) / np.abs(second).max()
    assert np.allclose(found.difference("logits", "planted", "other").values, expected)
    assert found.selected("logits", "planted")[0] == "L1H1"


def test_shares_count_all_heads_and_take_those_that_are_there():
    headmap = HeadMap(np.array([[0.1, -3], [np.nan, 2], [1, np.nan]]), ("layer", "head"), "e", "u", "s")
    assert on_top(headmap, 0.34) == ("L0H1", "L1H1")
    assert share_of(headmap, 0.9) == 4 and share_of(headmap, 0.01) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, t: reuse(m, [t]), "two or more"),
        (lambda m, t: reuse(m, [t, t]), "another name"),
        (lambda m, t: stage_maps(m, t, 1.5), "between 0 and 1"),
        (lambda m, t: stage_maps(m, t, 0.2, [Stage("values", "queries", ("v",))]), "does not come before"),
    ],
    ids=["one", "same", "share", "order"],
)
def test_slips_are_named(planted, call, words):
    with pytest.raises(ValueError, match=words):
        call(*planted)


def test_a_run_that_was_stopped_goes_on(planted, tmp_path, monkeypatch):
    model, task = planted
    tasks, stages = [task, replace(task, name="again")], (Stage("logits"), Stage("keys", "logits", ("k",)))
    whole = reuse(model, tasks, 1 / 6, stages=stages, **QUIET)
    real, done = path_patch, []

    def until_the_third(*args, **kwargs):
        done.append(args)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("headlens.analyses.circuits.stages.path_patch", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        reuse(model, tasks, 1 / 6, stages=stages, run=tmp_path, **QUIET)
    again = reuse(model, tasks, 1 / 6, stages=stages, run=tmp_path, **QUIET)
    assert len(done) == 5
    for stage in whole.maps:
        for name in whole.tasks:
            assert np.array_equal(again.maps[stage][name].values, whole.maps[stage][name].values, equal_nan=True)
    with pytest.raises(ValueError, match="something else"):
        reuse(model, tasks, 0.5, stages=stages, run=tmp_path, **QUIET)
    # one that was not stopped computes nothing
    reuse(model, tasks, 1 / 6, stages=stages, run=tmp_path, **QUIET)
    assert len(done) == 5


def test_all_maps_in_one(planted):
    model, task = planted
    found = reuse(model, [task, replace(task, name="again")], 1 / 6, stages=STAGES[:1], **QUIET)
    together = found.as_map()
    assert together.coords["metric"] == ("logits of planted", "logits of again")
    assert np.array_equal(together.sel(metric="logits of again").values, found.maps["logits"]["again"].values)
    assert together.provenance["in_words"] == found.described()
