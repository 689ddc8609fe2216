"""The search for heads whose sinks do harm: found where planted, refused where useful, and what it is worth told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headlens.analyses import head_search
from headlens.analyses.calibration import calibrate, split
from headlens.analyses.calibration_settings import Settings
from headlens.analyses.checkpoints import NotKept
from headlens.analyses.choice_scores import choice_runs, correct
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.head_search import HeadSearch
from headlens.hooks import each_head
from headlens.hooks.model import wrap
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Head
from planted_sinks import HARMFUL, USEFUL, planted_model, planted_task
from tiny_models import held, tiny


@pytest.fixture(scope="module")
def model():
    return planted_model()


@pytest.fixture(scope="module")
def task():
    return planted_task()


@pytest.fixture(scope="module")
def found(model, task):
    return calibrate(model, task, progress=False)


def accuracy(model, task, heads, beta=0.4, rule=None):
    edit = Settings(rule or SinkRule(), beta, None, 0.05, 20, 0).edit_of([Head(*heads)])
    return float(correct(choice_runs(model, task, [edit]), task).float().mean())


def test_the_harmful_sink_is_selected_and_its_useful_twin_is_not(found):
    assert found.selected == (Head(*HARMFUL),)
    assert found.measured.values[HARMFUL] > 20 and found.measured.values[USEFUL] < 0
    assert found.estimate.values[HARMFUL] > 0 > found.estimate.values[USEFUL]


def test_weaker_sinks_help_the_one_and_harm_the_other(model, task):
    betas = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    harmful, useful = ([accuracy(model, task, head, beta) for beta in betas] for head in (HARMFUL, USEFUL))
    assert harmful == sorted(harmful) and harmful[-1] > harmful[0] + 0.2
    assert useful == sorted(useful, reverse=True) and useful[-1] < useful[0] - 0.1


def test_what_is_measured_is_what_whole_runs_say(model, task, found):
    a, b = split(task, 0)
    for half, head, gain in ((a, HARMFUL, found.measured.values[HARMFUL]), (b, HARMFUL, found.held_out.points)):
        own = task.subset(half.tolist())
        before = float(correct(choice_runs(model, own), own).float().mean())
        assert gain == pytest.approx(100 * (accuracy(model, own, head) - before), abs=1e-4)
    # the first order, against the log-probability after a hundredth of the step
    assert found.held_out.interval[0] > 0 and found.null.gain == found.held_out.points
    assert found.null.sets == 3 and found.null.high < 5


def test_the_edit_of_the_result_is_the_calibration(model, task, found):
    edited = correct(choice_runs(model, task, [found.edit()]), task)
    assert float(edited.float().mean()) == pytest.approx(accuracy(model, task, HARMFUL))


def test_no_head_is_selected_where_nothing_helps(model, task):
    # answers drawn without regard to the prompts
    order = np.random.default_rng(3).permutation(len(task)).tolist()
    hopeless = replace(task, answers=task.answers[order])
    none = calibrate(model, hopeless, level=0.001, progress=False)
    assert none.selected == () and none.held_out is None and none.null is None
    assert "0 gain with p <= 0.001 (up to 0.0 would by luck); so no head is selected." in none.described()
    with pytest.raises(ValueError, match="nothing to calibrate"):
        none.edit()


def test_any_gain_is_enough_at_level_one(model, task):
    found = calibrate(model, task, level=1.0, progress=False)
    gains = found.measured.values
    assert {*found.selected} == {Head(*map(int, at)) for at in np.argwhere(gains > 0)}
    said = found.described()
    assert "1 gain (level 1 keeps every gain, as 2406.15765 does, those by luck included): L0H0. All of" in said
    assert "p <= 1 " not in said and "would by luck" not in said


def test_a_stopped_search_goes_on_and_ends_alike(model, task, found, tmp_path, monkeypatch):
    def stopping(self, prompts, heads):
        if len([*(tmp_path / "run" / "chunks").glob("a-alone-*")]) == 4:
            raise KeyboardInterrupt
        return computed(self, prompts, heads)

    computed = HeadSearch._alone
    with monkeypatch.context() as patched:
        patched.setattr(HeadSearch, "_alone", stopping)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, task, run=tmp_path / "run", progress=False)
    calls = []
    monkeypatch.setattr(HeadSearch, "_alone", lambda *args: calls.append(args) or computed(*args))
    again = calibrate(model, task, run=tmp_path / "run", progress=False)
    assert again.plain() == found.plain()
    assert len([*(tmp_path / "run" / "chunks").glob("a-alone-*")]) == len(calls) + 4
    with pytest.raises(ValueError, match="beta: 0.4 there, 0.5 now"):
        calibrate(model, task, beta=0.5, run=tmp_path / "run", progress=False)


def test_a_search_whose_prompts_do_not_fit_together_halves_them_and_finds_the_same(model, task, monkeypatch):
    few = task.subset([*range(7)])
    search = HeadSearch(
        model,
        few,
        "a",
        [Head(*HARMFUL), Head(*USEFUL)],
        Settings(SinkRule(), 0.4, None, 0.05, 20, 0).edit_of,
        NotKept(),
    )
    heads, sizes = search.pool, []
    alone, first_order = search.alone(heads), search.first_order()
    record = each_head.record_base

    def scarce(model, tokens, start):
        sizes.append(len(tokens))
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return record(model, tokens, start)

    monkeypatch.setattr(each_head, "record_base", scarce)
    most = 2
    np.testing.assert_array_equal(search.alone(heads), alone)
    np.testing.assert_allclose(search.first_order(), first_order, rtol=0, atol=1e-5)
    assert max(sizes) > 2 and sum(size for size in sizes if size <= 2) == 2 * len(few)
    most = 0
    with pytest.raises(ValueError, match="does not hold the runs of one prompt of .* tokens"):
        search.alone(heads)
    with pytest.raises(ValueError, match="does not hold the runs of one prompt of .* tokens"):
        replace(search).why_not_replayed  # noqa: B018


def test_groups_of_a_search_on_a_gpu_follow_from_the_whole_card(model, task, monkeypatch):
    length = int(task.lengths[0])
    search = HeadSearch(
        model, task, "a", [Head(*HARMFUL)], Settings(SinkRule(), 0.4, None, 0.05, 20, 0).edit_of, NotKept()
    )
    for prompts in (3, 10**6):
        monkeypatch.setattr(head_search, "gradient_rows_of_the_card", lambda *asked, rows=prompts * length: rows)
        assert len(replace(search).groups[0]) == min(prompts, int((task.lengths == task.lengths.min()).sum()))


def test_the_table_and_the_plain_values(found):
    frame = found.to_frame()
    assert frame["label"][0] == "L0H0" and frame["selected"].tolist() == [True, False]
    assert (frame["q"] >= frame["p"]).all()
    plain = found.plain()
    assert plain["selected"] == ["L0H0"] and plain["rule"]["mode"] == "causal_column"
    assert plain["held_out"]["points"] == found.held_out.points


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sinks": [3]}, "expected a SinkRule"),
        ({"beta": 1.5}, "beta=1.5; expected the share"),
        ({"layers": [4]}, "the model has layers 0 to 0"),
        ({"layers": []}, "name at least one layer"),
        ({"candidates": 0}, "candidates=0 was given"),
        ({"level": 0.0}, "level=0.0 was given"),
        ({"sets": 0}, "sets=0 was given"),
    ],
)
def test_settings_that_do_not_fit(model, task, settings, message):
    with pytest.raises(ValueError, match=message):
        calibrate(model, task, progress=False, **settings)


def test_too_few_prompts(model, task):
    with pytest.raises(ValueError, match="takes 4 or more"):
        calibrate(model, task.subset([0, 1, 2]), progress=False)


def test_where_replay_is_off_whole_runs_say_the_same(model, task, found, monkeypatch):
    monkeypatch.setattr(HeadSearch, "why_not_replayed", "this test says so")
    plain = calibrate(model, task, progress=False)
    np.testing.assert_array_equal(plain.measured.values, found.measured.values)
    assert plain.measured.provenance["method"] == "plain forwards, since this test says so"


def test_prompts_that_come_twice_stay_in_one_half(model, task):
    twice = task.subset([*range(60), *range(60)])
    for half in split(twice, 0):
        assert {prompt % 60 for prompt in half} == {prompt % 60 for prompt in half if prompt < 60}


def test_no_sink_at_all_is_an_error_and_no_finding(model, task):
    with pytest.raises(ValueError, match="no head has a sink that would lose attention"):
        calibrate(model, task, SinkRule(min_rows=1000), progress=False)
    with pytest.raises(ValueError, match="not a causal language model"):
        calibrate(held("bert"), task, progress=False)


def test_heads_without_sinks_are_not_tried_and_not_counted(found):
    assert found.with_sinks == 2 and "2 heads have sinks" in found.described()
    assert found.to_frame()["label"].tolist() == ["L0H0", "L0H1"]


def test_heads_that_were_not_tried_count_in_the_correction(model, task, found):
    fewer = calibrate(model, task, candidates=1, progress=False)
    (q,), (p,) = fewer.to_frame()["q"], fewer.to_frame()["p"]
    assert q == pytest.approx(2 * p) and "up to 0.1 would by luck" in fewer.described()


def test_the_map_alone_says_what_the_choice_is_worth(found):
    about = found.measured.provenance
    assert about["selected"] == ["L0H0"] and about["held_out"]["points"] == found.held_out.points
    assert about["in_words"] == found.described() and len(about["half_a"]) == about["n_prompts"] == 120


def test_in_half_precision_idle_heads_change_nothing():
    # a rule under which next to nothing is a sink: what a head does not change must not be counted as broken
    model, heads = wrap(tiny("llama").to(torch.bfloat16), name="half"), [Head(0, 0), Head(1, 1)]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 90, (40, 24), generator=draw)
    choices = torch.stack([torch.randperm(80, generator=draw)[:20] + 4 for _ in range(40)])
    close = ChoiceTask("close", ids, torch.full((40,), 24), choices, torch.zeros(40, dtype=torch.int64))
    settings = Settings(SinkRule(alpha=1e6), 0.4, None, 1.0, 1, 0)
    search = HeadSearch(model, close, "a", heads, settings.edit_of, NotKept())
    without, *alone = search.alone(heads)
    assert all((without == each).all() for each in alone)
