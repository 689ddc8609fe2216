"""Recalibrate on every architecture: what each policy does to rows, and what it leaves bit for bit as it was."""

import pytest
import torch

from dense_rows import edited_by_hand, moved, multiplied, renormalised
from headlens.hooks.groups import Recent
from headlens.hooks.model import wrap
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.sink_rule import SinkRule
from tiny_models import HELD, held, inputs_for, tiny
from untyped import untyped

HEADS = ["L0H1", "L1H2", "L2H0", "L2H3"]
GROUPS = {"start": [0, 3], "second": 1}
BY_POSITION = {0: 0.2, 3: 0.2, 1: 3.0}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def weights(rest=1.0):
    return {"start": 0.2, "second": 3.0, "rest": rest}


def rest_of(row, *named):
    return [key for key in range(len(row)) if key not in named]


def weighted_by_hand(row, rest):
    return multiplied(row, dict.fromkeys(range(len(row)), rest) | BY_POSITION)


POLICIES = {
    "renorm": (
        lambda: Recalibrate(HEADS, GROUPS, weights(rest=1.5)),
        lambda row: renormalised(row, weighted_by_hand(row, 1.5)),
    ),
    "raw": (lambda: Recalibrate(HEADS, GROUPS, weights(0.7), policy="raw"), lambda row: weighted_by_hand(row, 0.7)),
    "transfer": (
        lambda: Recalibrate(HEADS, donors=[0, 2], receivers=[1, 4], beta=0.25, policy="transfer"),
        lambda row: moved(row, [0, 2], [1, 4], 0.25),
    ),
    "to_the_rest": (
        lambda: Recalibrate(HEADS, donors=[0, 2], receivers="rest", beta=0.0, policy="transfer"),
        lambda row: moved(row, [0, 2], rest_of(row, 0, 2), 0.0),
    ),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_by_hand(name, policy):
    model, inputs = held(name), inputs_for(name)
    build, rule = POLICIES[policy]
    report = Report()
    with model.edited(build(), report=report):
        got = model(inputs)
    with edited_by_hand(model, HEADS, lambda prompt, row, attention: rule(attention)):
        expected = model(inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    assert (got - model(inputs)).abs().max() > 1e-3
    assert [str(head) for head in sorted(report.heads)] == HEADS
    assert max(one.off for one in report.heads.values()) < 1e-5


NEUTRAL = {
    "renorm": lambda: Recalibrate("all", GROUPS, {"start": 1.0, "second": 1.0, "rest": 1.0}),
    "raw": lambda: Recalibrate("all", GROUPS, {"start": 1.0}, policy="raw"),
    "transfer": lambda: Recalibrate("all", donors=[0, 2], receivers="rest", beta=1.0, policy="transfer"),
    "nothing_to_give": lambda: Recalibrate("all", donors=[80], receivers="rest", beta=0.1, policy="transfer"),
    "no_sinks": lambda: Recalibrate("all", donors=SinkRule(alpha=1e4), receivers="rest", beta=0.1, policy="transfer"),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("kind", NEUTRAL)
def test_neutral_settings_are_bit_for_bit_the_unedited_run(name, kind):
    model, inputs = held(name), inputs_for(name)
    report = Report()
    with model.edited(NEUTRAL[kind](), report=report):
        logits, edited = model.record(inputs, names_filter="z")
        seen, patterns = model.record(inputs, names_filter="pattern")
    plain, recorded = model.record(inputs, names_filter="z")
    assert torch.equal(logits, plain)
    assert all(torch.equal(edited[site], z) for site, z in recorded.items())
    plain_seen, plain_patterns = model.record(inputs, names_filter="pattern")
    assert torch.equal(seen, plain_seen)
    assert all(torch.equal(patterns[site], pattern) for site, pattern in plain_patterns.items())
    assert sum(one.touched for one in report.heads.values()) == 0
    assert sum(one.rows for one in report.heads.values()) > 0


@pytest.mark.parametrize("name", HELD)
def test_other_heads_and_rows_are_bit_for_bit_as_they_were(name):
    model, inputs = held(name), inputs_for(name)
    edit = Recalibrate(["L1H2", "L1H3"], {"second": 1}, {"second": 0.1}, pos=[6, 4])
    with model.edited(edit):
        edited = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"]
    plain = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"]
    changed = (edited != plain).any(-1)
    assert all(changed[prompt, row, head] for prompt, row in enumerate([6, 4]) for head in (2, 3))
    assert int(changed.sum()) == 4


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2"])
def test_in_bfloat16_the_arithmetic_is_float32(name):
    model, inputs = wrap(tiny(name).bfloat16()), inputs_for(name)
    edit = Recalibrate("L0H1", {"start": [0, 1, 2]}, {"start": 0.3})
    with model.edited(edit):
        logits, edited = model.record(inputs, names_filter="z")
    plain, before = model.record(inputs, names_filter="z")
    cache = model.record(inputs, names_filter=["pattern", "v"])[1]
    assert logits.dtype == torch.bfloat16 and not torch.equal(logits, plain)
    z = edited["blocks.0.attn.hook_z"]
    assert torch.equal(z[:, :, [0, 2, 3]], before["blocks.0.attn.hook_z"][:, :, [0, 2, 3]])
    attention = cache["blocks.0.attn.hook_pattern"][:, 1].double()
    sunk = 1 - attention.sum(-1, keepdim=True) if name == "gpt_oss" else 0
    attention[..., :3] *= 0.3
    attention = attention / (attention.sum(-1, keepdim=True) + sunk)
    expected = attention @ cache["blocks.0.attn.hook_v"][:, :, 0].double()
    torch.testing.assert_close(z[:, :, 1].double(), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
    with model.edited(Recalibrate("all", {"start": [0]}, {"start": 1.0})):
        assert torch.equal(model(inputs), plain)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs groups=\{name: keys\}"),
        ({"groups": "first", "multipliers": {"first": 0.5}}, r"'first'; expected groups=\{name: keys\}"),
        ({"groups": {"a": [0]}, "multipliers": 0.5}, r"0.5; expected groups=\{name: keys\} and multipliers"),
        ({"groups": {"a": [0]}}, "no multipliers"),
        ({"groups": {"a": [0]}, "multipliers": {"a": -0.5}}, "group 'a' is -0.5; expected a finite number from 0"),
        ({"groups": {"a": [0]}, "multipliers": {"a": float("nan")}}, "group 'a' is nan"),
        ({"groups": {"a": [0]}, "multipliers": {"a": float("inf")}}, "group 'a' is inf"),
        ({"groups": {"a": [0]}, "multipliers": {"a": "x"}}, "group 'a' is x; expected a finite number"),
        ({"groups": {"sinks": [0]}, "multipliers": {"sink": 0.5}}, r"unknown group 'sink' \(did you mean 'sinks'\?\)"),
        ({"groups": {"rest": [0]}, "multipliers": {"rest": 0.5}}, "'rest' is whatever is in no group"),
        ({"groups": {name: [0] for name in "abcd"}, "multipliers": {"a": 1.0}}, "4 groups were given; an edit takes 3"),
        (
            {"groups": {"a": [0]}, "multipliers": {"a": 1.0}, "policy": "renrom"},
            r"'renrom' \(did you mean 'renorm'\?\)",
        ),
        ({"groups": {"a": [0]}, "multipliers": {"a": 1.0}, "beta": 0.4}, "go with policy='transfer'; .* 'renorm'"),
        ({"groups": {"a": [0]}, "policy": "transfer"}, "takes donors=, receivers= and beta="),
        ({"donors": [0], "beta": 0.4, "policy": "transfer"}, "needs receivers=: keys that give and keys that receive"),
        ({"receivers": [0], "beta": 0.4, "policy": "transfer"}, "needs donors="),
        ({"donors": "rest", "receivers": "rest", "beta": 0.4, "policy": "transfer"}, "Both donors= and receivers= are"),
        ({"donors": [0], "receivers": "rest", "policy": "transfer"}, "beta=None; expected the share .* from 0 to 1"),
        ({"donors": [0], "receivers": "rest", "beta": 1.2, "policy": "transfer"}, "beta=1.2"),
        ({"donors": [0], "receivers": "rest", "beta": float("nan"), "policy": "transfer"}, "beta=nan"),
        ({"groups": {"a": [0]}, "multipliers": {"a": 1.0}, "pos": -1}, "negative"),
        (
            {"groups": {"a": [0]}, "multipliers": {"a": 1.0}, "pos": torch.tensor(1.5)},
            "expected one whole number, or one for each",
        ),
        (
            {"groups": {"a": [0]}, "multipliers": {"a": 1.0}, "pos": torch.tensor([[1], [2]])},
            "one whole number, or one for each",
        ),
    ],
)
def test_impossible_recalibrations_are_refused_when_made(given, message):
    with pytest.raises(ValueError, match=message):
        untyped(Recalibrate, "all", **given)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Recalibrate("L7H0", {"a": [0]}, {"a": 0.5}), r"L7H0 does not exist: the model has layers L0\.\.L2"),
        (Recalibrate("L0H9", {"a": [0]}, {"a": 0.5}), r"L0H9 does not exist: .* heads H0\.\.H3"),
        (Recalibrate([], {"a": [0]}, {"a": 0.5}), "no heads; name at least one"),
        (Recalibrate("all", {"a": Recent(40)}, {"a": 0.0}), r"left row 0 of L0H0 \(prompt 0\) no key to attend to"),
        (
            Recalibrate("L1H1", {"a": [5]}, {"a": 1.0, "rest": 0.0}),
            r"left row 0 of L1H1 \(prompt 0\) no key to attend to",
        ),
        (Recalibrate("all", {"a": [0]}, {"a": 0.5}, pos=[1, 2, 3]), "3 entries for a batch of 2"),
        (Recalibrate("all", {"a": [0, 4], "b": [4]}, {"a": 0.5}), r"'a' and 'b' both have key 4 \(prompt 0, L0H0\)"),
        (
            Recalibrate("all", donors=[0, 4], receivers=[4], beta=0.1, policy="transfer"),
            "'donors' and 'receivers' both have key 4",
        ),
    ],
)
def test_recalibrations_that_do_not_fit_are_refused(edit, message):
    model = held("llama")
    with pytest.raises(ValueError, match=message), model.edited(edit):
        model(inputs_for("llama"))


def test_an_edit_whose_rows_never_come_is_an_error():
    model, edit = held("llama"), Recalibrate("L1H1", {"a": [0]}, {"a": 0.5}, pos=50)
    with pytest.raises(RuntimeError, match=r"L1H1.* never took effect"), model.edited(edit):
        model(inputs_for("llama"))
