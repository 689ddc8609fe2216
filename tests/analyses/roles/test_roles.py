"""Roles: of heads with weights set by hand, of made-up evidence, and of the real model."""

import numpy as np
import pytest
import torch

from headlens.analyses import tasks
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.headmap import HeadMap
from headlens.analyses.paths.path_patching import path_patch
from headlens.analyses.roles.roles import Roles, roles
from headlens.hooks.wiring import Wiring, wiring_of
from named_tasks import GONE, about, named_task
from planted_circuit import planted_model, planted_task
from tiny_models import held
from tiny_tasks import task_of

PLANTED = {"length": 5, "top": 1, "progress": False}
THRESHOLDS = {
    "previous_token": 0.4,
    "duplicate": 0.4,
    "induction": 0.4,
    "attention": 0.2,
    "direct": 0.1,
    "copy": 0.5,
    "inhibition": 0.05,
}
EVIDENCE = (
    "previous_token",
    "duplicate",
    "induction",
    "to_answer",
    "to_foil",
    "direct",
    "copy",
    "negative_copy",
    "into_movers",
)


def made_up(heads, layers=2, size=3):
    """Roles from the evidence of a few heads; all else is 0."""
    values = {name: np.zeros((layers, size), np.float32) for name in EVIDENCE}
    for head, numbers in heads.items():
        for name, number in numbers.items():
            values[name][head] = number
    maps = {
        name: HeadMap(each, dims=("layer", "head"), name=name, units="made up", sign="made up")
        for name, each in values.items()
    }
    return Roles(maps, THRESHOLDS)


@pytest.fixture(scope="module")
def planted():
    return roles(planted_model(), planted_task(), **PLANTED)


def test_the_planted_heads_have_the_roles_that_they_were_given(planted):
    assert planted.heads("previous token") == ("L0H0",)
    assert planted.heads("induction") == ("L1H1",) == planted.heads("mover")
    # it attends to its own token, wherever that stands
    assert planted.heads("duplicate token") == ("L1H0",)
    assert planted.heads("inhibition") == () == planted.heads("negative mover")
    assert planted.labels() == {"L0H0": "previous token", "L1H0": "duplicate token", "L1H1": "mover"}


def test_every_evidence_says_what_it_is(planted):
    assert tuple(planted.evidence) == EVIDENCE
    for each in planted.evidence.values():
        assert each.dims == ("layer", "head") and each.units and each.sign and each.provenance["paper"]
    assert planted.evidence["to_answer"].values[1, 1] > 0.8
    assert planted.provenance["task"] == "planted" and planted.provenance["thresholds"]["attention"] == 0.2


def test_a_mover_turned_round_is_a_negative_mover():
    model = planted_model()
    with torch.no_grad():
        model.hf.transformer.h[1].attn.c_proj.weight.neg_()
    found = roles(model, planted_task(), **PLANTED)
    assert found.heads("negative mover") == ("L1H1",) and found.heads("mover") == ()
    # its queries are patched as those of movers are
    assert found.evidence["into_movers"].provenance["receivers"] == ["L1H1.q"]


def test_no_mover_no_inhibition(planted):
    found = roles(planted_model(), planted_task(), direct=1e6, **PLANTED)
    assert found.heads("mover") == () and np.isnan(found.evidence["into_movers"].values).all()
    assert found.evidence["into_movers"].provenance["receivers"] == [] and found.heads("inhibition") == ()
    assert found.heads("induction") == ("L1H1",)


def test_prompts_that_hold_no_answer_have_no_movers():
    gone = about(named_task(), torch.full((6,), GONE), torch.full((6,), GONE + 1))
    found = roles(held("gpt2"), gone, length=7, attention=1e-9, direct=1e-9, copy=1e-9, progress=False)
    assert np.isnan(found.evidence["to_foil"].values).all()
    assert not any(found.heads(role) for role in ("mover", "negative mover", "inhibition"))


def test_what_goes_into_movers_is_path_patching():
    # answers at position 2 and foils at 5, so that heads attend to them
    task = task_of(prompts=4)
    task = about(task, task.clean_tokens[:, 2], task.clean_tokens[:, 5])
    model = held("llama")
    found = roles(model, task, length=7, attention=0.01, direct=0.01, copy=0.01, top=60, progress=False)
    movers = {*found.heads("mover"), *found.heads("negative mover")}
    receivers = sorted(head for head in movers if head[1] != "0")
    assert len(receivers) >= 2
    want = path_patch(model, task, [(head, "q") for head in receivers], positions="END", progress=False)
    assert np.array_equal(found.evidence["into_movers"].samples, want.samples, equal_nan=True)
    met = (want.values >= 0.05) & (found.evidence["to_foil"].values >= 0.01)
    assert {*found.heads("inhibition")} == {f"L{layer}H{head}" for layer, head in np.argwhere(met)}


MOVER = {"to_answer": 0.6, "direct": 0.3, "copy": 0.75}


@pytest.mark.parametrize(
    ("numbers", "role", "strength"),
    [
        ({"previous_token": 0.8}, "previous token", 2),
        ({"duplicate": 0.6}, "duplicate token", 1.5),
        ({"induction": 0.4}, "induction", 1),
        (MOVER, "mover", 1.5),
        ({"to_answer": 0.3, "direct": -0.4, "negative_copy": 1}, "negative mover", 1.5),
        ({"to_foil": 0.25, "direct": 0.4, "negative_copy": 1}, "negative mover", 1.25),
        ({"to_foil": 0.5, "into_movers": 0.06}, "inhibition", 1.2),
    ],
)
def test_each_rule_asks_for_all_of_its_evidence(numbers, role, strength):
    found = made_up({(1, 2): numbers})
    assert found.labels() == {"L1H2": role}
    np.testing.assert_allclose(found.strengths[role][1, 2], strength, rtol=1e-6)
    for name in numbers:
        assert made_up({(1, 2): {**numbers, name: 0.1 * numbers[name]}}).labels() == {}


@pytest.mark.parametrize(
    "numbers",
    [
        {**MOVER, "direct": -0.3},
        {"to_answer": 0.6, "direct": 0.3, "negative_copy": 1},
        {"to_foil": 0.6, "direct": -0.3, "negative_copy": 1},
        {"to_foil": 0.6, "direct": 0.3, "copy": 1},
        {"to_foil": 0.6, "into_movers": -0.5},
        {**MOVER, "to_answer": np.nan},
    ],
)
def test_evidence_of_the_wrong_sign_or_missing_is_no_role(numbers):
    assert made_up({(0, 1): numbers}).labels() == {}


def test_one_row_per_head_and_role_strongest_first():
    found = made_up({(0, 2): {"induction": 0.5}, (1, 0): {**MOVER, "induction": 0.9}})
    frame = found.to_frame()
    assert [*frame.columns] == ["head", "role", "strength", *EVIDENCE]
    assert [*zip(frame["head"], frame["role"], strict=True)] == [
        ("L1H0", "induction"),
        ("L1H0", "mover"),
        ("L0H2", "induction"),
    ]
    np.testing.assert_allclose(frame["copy"], [0.75, 0.75, 0])
    # the role on the task goes before the one on random tokens, which it meets better
    assert found.labels() == {"L0H2": "induction", "L1H0": "mover"}
    assert "mover: L1H0\n" in found.described() and "duplicate token: none" in found.described()


def test_of_roles_on_the_task_the_better_met_is_the_label():
    both = {**MOVER, "to_foil": 0.8, "into_movers": 0.07}
    assert made_up({(1, 1): both}).labels() == {"L1H1": "mover"}
    assert made_up({(1, 1): {**both, "into_movers": 0.2}}).labels() == {"L1H1": "inhibition"}


def test_without_any_role_the_frame_has_its_columns():
    frame = made_up({}).to_frame()
    assert len(frame) == 0 and "strength" in frame.columns


def test_a_circuit_takes_its_own_heads_roles(planted):
    wiring = wiring_of(planted_model())
    circuit = Circuit.of_nodes(wiring, ["L0H0", "L1H1"], roles={"MLP0": "none", "L0H0": "unknown"})
    named = planted.on(circuit)
    assert named.roles == {"MLP0": "none", "L0H0": "previous token", "L1H1": "mover"}
    assert named == circuit and circuit.roles["L0H0"] == "unknown"


def test_a_circuit_of_another_model_is_refused(planted):
    other = Wiring(4, 4, ("after", "after"))
    with pytest.raises(ValueError, match="2 layers of 4 heads, and these roles are of one with 2 of 3"):
        planted.on(Circuit.of_nodes(other, ["L1H1"]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"attention": 0.0}, "attention=0.0 was given; expected a threshold above 0"),
        ({"copy": float("nan")}, "copy=nan was given"),
        ({"length": 6}, "has 10 positions"),
        ({"top": 10}, "top=10 was given"),
    ],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        roles(planted_model(), planted_task(), **{**PLANTED, **wrong})


def test_a_role_that_there_is_not_is_named(planted):
    with pytest.raises(
        ValueError, match=r"There is no role 'movers' \(did you mean 'mover'\?\); the roles are mover, negative mover"
    ):
        planted.heads("movers")


def test_a_task_of_another_model_is_refused():
    with pytest.raises(ValueError, match="is not a causal language model"):
        roles(held("bert"), task_of(), progress=False)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_has_movers_and_heads_that_tell_them_where_to_look(smollm2):
    found = roles(smollm2, tasks.ioi(smollm2, n=8, seed=0), progress=False)
    assert {"L23H0", "L23H2", "L23H7"} <= {*found.heads("mover")}
    # one speaks for the answer by lowering the foil, one against the answer
    assert {*found.heads("negative mover")} == {"L23H3", "L24H4"}
    direct = found.evidence["direct"].values
    assert direct[23, 3] == direct.max() > 1 and direct[24, 4] == direct.min() < -0.5
    assert found.heads("inhibition") == ("L20H0", "L19H2")
    assert found.heads("induction")[0] == "L18H6" and found.heads("previous token")[0] == "L16H0"
    assert found.labels()["L23H7"] == "mover" and "L23H7" in found.heads("induction")
