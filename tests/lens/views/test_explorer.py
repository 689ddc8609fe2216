"""Explorer: choosing a head fills what is linked to it with what plain runs say; a run that fails changes nothing."""

import json
import math

import numpy as np
import pytest
import torch

from headlens.analyses.direct_logits import direct_logits
from headlens.analyses.headmap import HeadMap
from headlens.hooks.edits import Ablate, Gate, Patch
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import Temperature
from headlens.views.explorer import Explorer
from headlens.views.prompt_reading import PromptReading
from tiny_models import held
from tiny_tasks import ragged_task, task_of


@pytest.fixture(scope="module")
def model():
    return held("llama")


@pytest.fixture
def headmap():
    values = np.random.default_rng(0).normal(size=(3, 4))
    return HeadMap(values=values, dims=("layer", "head"), name="effect", units="u", sign="s")


@pytest.fixture
def explorer(headmap, model):
    return Explorer(headmap, model, task_of())


def answer_of(model, task, prompt, tokens, *edits):
    """Answer minus foil at END, of a plain run under edits."""
    rows = tokens[prompt : prompt + 1, : int(task.lengths[prompt])]
    with model.edited(*edits), torch.no_grad():
        logits = model(rows)[0, int(task.positions["END"][prompt])]
    return float(logits[task.answers[prompt]] - logits[task.foils[prompt]])


def recorded(model, task, prompt, layer, head):
    rows = task.clean_tokens[prompt : prompt + 1, : int(task.lengths[prompt])]
    _, kept = model.record(rows, names_filter=["pattern"])
    return kept[f"blocks.{layer}.attn.hook_pattern"][0, head].numpy().astype("<f2").tobytes()


def test_choosing_a_head_fills_the_linked_views(explorer, model):
    explorer.selected = (2, 1)
    assert explorer.attention.pattern == recorded(model, explorer.task, 0, 2, 1)
    assert explorer.attention.title == "L2H1" and explorer.map.selected == explorer.card.selected == [2, 1]
    direct = direct_logits(model, explorer.task.subset([0])).values[2, 1]
    lines = explorer.card.lines()
    assert lines["direct effect on the answer"] == pytest.approx(float(direct)) and len(lines) == 8
    explorer.map.selected = [0, 3]
    assert explorer.selected == (0, 3) and explorer.attention.pattern == recorded(model, explorer.task, 0, 0, 3)
    explorer.map.selected = None
    assert explorer.selected is None and explorer.attention.pattern == b""


def test_entropy_on_the_card_is_that_of_the_pattern_shown(explorer):
    explorer.selected = (1, 2)
    rows = explorer.attention.shown().astype(np.float64)[1:]
    plain = np.mean([-(row[row > 0] * np.log(row[row > 0])).sum() for row in rows])
    assert explorer.card.lines()["entropy"] == pytest.approx(plain, abs=2e-3)
    assert explorer.card.lines()["attention to the first token"] == pytest.approx(rows[:, 0].mean(), abs=1e-3)


def test_another_prompt_is_read_anew(headmap, model):
    task = ragged_task()
    explorer = Explorer(headmap, model, task, selected=(1, 0))
    explorer.ablate()
    explorer.prompt = 1
    assert explorer.selected == (1, 0) and len(explorer.attention.tokens) == 7 and explorer.done == ""
    assert explorer.attention.pattern == recorded(model, task, 1, 1, 0)
    assert math.isnan(explorer.after)
    with pytest.raises(ValueError, match="has 0 to 5"):
        explorer.prompt = 6
    assert explorer.prompt == 1


def test_ablating_is_a_run_under_ablate(explorer, model):
    task, explorer.selected = explorer.task, (2, 3)
    assert explorer.ablate() == explorer.after
    assert explorer.after == answer_of(model, task, 0, task.clean_tokens, Ablate((2, 3)))
    assert explorer.before == answer_of(model, task, 0, task.clean_tokens) != explorer.after
    assert explorer.done == "L2H3 ablated"


def test_patching_puts_the_clean_head_into_the_corrupted_run(explorer, model):
    task, explorer.selected, explorer.prompt = explorer.task, (1, 1), 2
    explorer.patch()
    _, source = model.record(task.clean_tokens[2:3], names_filter=["z"])
    assert explorer.after == answer_of(model, task, 2, task.corrupted_tokens, Patch((1, 1), source))
    assert explorer.before == answer_of(model, task, 2, task.corrupted_tokens) != explorer.after


def test_sliders_are_edits_of_the_clean_run(explorer, model):
    task, explorer.selected = explorer.task, (1, 2)
    explorer.tau = 1.5
    explorer.beta = 0.25
    explorer.gamma = 2.0
    transfer = Recalibrate((1, 2), policy="transfer", donors="first", receivers="rest", beta=0.25)
    edits = [Temperature((1, 2), 1.5), transfer, Gate((1, 2), 2.0)]
    assert explorer.after == answer_of(model, task, 0, task.clean_tokens, *edits) != explorer.before
    assert explorer.done == "L1H2 with tau 1.5, beta 0.25, gamma 2"
    explorer.selected = (0, 0)
    assert (explorer.tau, explorer.beta, explorer.gamma, explorer.done) == (1, 1, 1, "")


def test_the_controls_and_the_traits_are_one(explorer):
    prompts, beside = explorer.children[1:]
    *buttons, tau, _, gamma, answer = _acts(beside)
    assert all(one.disabled for one in (*buttons, tau, gamma))
    explorer.selected = (2, 0)
    buttons[0].click()
    assert explorer.done == "L2H0 ablated" and "L2H0 ablated" in answer.value and not buttons[0].disabled
    tau.value = 0.5
    assert explorer.tau == 0.5 and "tau 0.5" in answer.value
    explorer.gamma = 0.0
    assert gamma.value == 0
    prompts.value = 3
    assert explorer.prompt == 3 and tau.value == 1 and "before" not in answer.value


def test_an_interrupt_leaves_what_was_finished(explorer, monkeypatch):
    explorer.selected = (2, 1)
    explorer.ablate()
    seen = (explorer.before, explorer.after, explorer.done, explorer.attention.pattern, explorer.card.data)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PromptReading, "_answer", interrupted)
    monkeypatch.setattr(type(explorer.model), "record", interrupted)
    explorer._readings.clear()
    tau = _acts(explorer.children[2])[2]
    for act in (
        explorer.ablate,
        explorer.patch,
        lambda: setattr(explorer, "selected", (0, 0)),
        lambda: setattr(explorer.map, "selected", [0, 0]),
        lambda: setattr(explorer, "prompt", 1),
        lambda: setattr(explorer, "gamma", 0.0),
        lambda: setattr(tau, "value", 2.0),
    ):
        with pytest.raises(KeyboardInterrupt):
            act()
        assert seen == (explorer.before, explorer.after, explorer.done, explorer.attention.pattern, explorer.card.data)
        assert explorer.selected == (2, 1) and explorer.map.selected == [2, 1] and explorer.prompt == 0
        assert (explorer.tau, explorer.gamma, tau.value) == (1, 1, 1)
    monkeypatch.undo()
    assert explorer.ablate() == seen[1]


def test_a_part_of_the_map_keeps_its_names(headmap, model):
    explorer = Explorer(headmap.sel(layer=[1, 2], head=[3, 0]), model, task_of(), selected=(2, 0))
    assert explorer.map.selected == [1, 1] and explorer.attention.pattern == recorded(model, explorer.task, 0, 2, 0)
    assert explorer.card.name == "L2H0"
    direct = direct_logits(model, explorer.task.subset([0])).values[2, 0]
    assert explorer.card.lines()["direct effect on the answer"] == pytest.approx(float(direct))
    with pytest.raises(ValueError, match="expected .layer, head. of this map"):
        explorer.selected = (0, 0)


def test_the_page_has_every_head_of_this_prompt(explorer, model, tmp_path):
    explorer.selected = (2, 1)
    explorer.ablate()
    text = explorer.save(tmp_path / "explorer.html").read_text()
    parts = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert parts["shared"] == ["selected"]
    modules = [part["module"] for part in parts["parts"]]
    assert modules == ["heatmap.js", "pattern.js", "card.js"] and "L2H1 ablated: answer minus foil" in text
    assert [part["traits"]["selected"] for part in parts["parts"]] == [[2, 1]] * 3
    assert parts["parts"][1]["traits"]["heads"] == [3, 4] and parts["parts"][1]["bytes"]["pattern"] == ""


def test_what_does_not_fit_is_refused(headmap, model, explorer):
    with pytest.raises(ValueError, match="No head is selected"):
        explorer.ablate()
    with pytest.raises(ValueError, match="No head is selected"):
        explorer.tau = 0.5
    with pytest.raises(ValueError, match="a map over layer and head is expected"):
        Explorer(headmap.sel(layer=0), model, task_of())
    wide = HeadMap(values=np.zeros((3, 5)), dims=("layer", "head"), name="n", units="u", sign="s")
    with pytest.raises(ValueError, match="has head 4; tiny-llama has heads 0 to 3"):
        Explorer(wide, model, task_of())


def _acts(beside):
    """Buttons, sliders and the answer of an explorer."""
    buttons, *others = beside.children[1].children[1].children
    return [*buttons.children, *others]
