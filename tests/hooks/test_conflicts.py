"""Which edits of the same rows compose, in which order, and which are refused."""

from contextlib import ExitStack
from itertools import product

import pytest
import torch

from dense_rows import edited_by_hand, moved, multiplied
from headlens.hooks.edits import Ablate, Call, Gate, Patch
from headlens.hooks.groups import First, Recent
from headlens.hooks.norm_gate import NormGate
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from tiny_models import held, inputs_for


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def transfer(heads="all", pos=None, donors=(0, 2)):
    return Recalibrate(heads, donors=[*donors], receivers="rest", beta=0.3, policy="transfer", pos=pos)


def renorm(heads="all", pos=None, by=0.2):
    return Recalibrate(heads, {"a": [0, 3]}, {"a": by}, pos=pos)


def raw(heads="all", pos=None, by=0.2):
    return Recalibrate(heads, {"a": [0, 3]}, {"a": by}, policy="raw", pos=pos)


def run(edits, nested=False, name="llama"):
    model = held(name)
    with ExitStack() as stack:
        for some in [[edit] for edit in edits] if nested else [edits]:
            stack.enter_context(model.edited(*some))
        return model(inputs_for(name))


FREE = {
    "renorm_renorm": ([renorm(by=0.2), Recalibrate("all", {"b": [3, 4]}, {"b": 4.0})]),
    "tau_tau": [Temperature("all", 0.5), Temperature("all", 3.0)],
    "raw_raw": [raw(by=0.4), Recalibrate("all", {"b": [3, 4]}, {"b": 2.0}, policy="raw")],
    "tau_renorm": [Temperature("all", 2.0), renorm()],
    "tau_raw": [Temperature("all", 2.0), raw()],
    "renorm_raw": [renorm(), raw()],
    "cut_cut": [KnockOut("all", groups=[1], pos=6), KnockOut("all", edges=[(6, 4), (7, 3)])],
    "cut_renorm": [KnockOut("all", edges=[(6, 4), (7, 3)]), renorm()],
    "raw_cut_tau": [KnockOut("all", groups=[0], policy="raw"), Temperature("all", 0.3)],
    "gates": [Gate("L1H2", 0.5), NormGate(0.5)],
    "gate_transfer": [Gate("L1H2", 0.5), transfer()],
}


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2"])
@pytest.mark.parametrize("kind", FREE)
def test_what_composes_does_so_in_any_order(name, kind):
    one, other = FREE[kind]
    results = [run(order, nested, name) for order, nested in product(([one, other], [other, one]), (False, True))]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=2e-5)
    for single in ([one], [other]):
        assert (run(single, name=name) - results[0]).abs().max() > 1e-3


def test_composed_multipliers_are_their_product():
    both = run([renorm(by=0.2), renorm(by=4.0)])
    torch.testing.assert_close(both, run([renorm(by=0.8)]), rtol=0, atol=2e-5)
    torch.testing.assert_close(run([raw(by=0.2), raw(by=4.0)]), run([raw(by=0.8)]), rtol=0, atol=2e-5)
    torch.testing.assert_close(
        run([Temperature("all", 0.5), Temperature("all", 3.0)]), run([Temperature("all", 1.5)]), rtol=0, atol=2e-5
    )
    torch.testing.assert_close(run([renorm(by=0.2), renorm(by=5.0)]), run([renorm(by=1.0)]), rtol=0, atol=2e-5)


def test_more_than_three_groups_in_two_edits():
    """What the limit of groups asks for gives what one edit of all would."""
    one = Recalibrate("all", {"a": [0], "b": [1], "c": [2]}, {"a": 0.2, "b": 0.3, "c": 2.0})
    other = Recalibrate("all", {"d": [3], "e": [4]}, {"d": 0.5, "e": 3.0})
    model, inputs = held("llama"), inputs_for("llama")
    heads = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    multipliers = {0: 0.2, 1: 0.3, 2: 2.0, 3: 0.5, 4: 3.0}

    def by_hand(prompt, pos, row):
        after = multiplied(row, multipliers)
        return after / after[after > 0].sum()

    with edited_by_hand(model, heads, by_hand):
        expected = model(inputs)
    torch.testing.assert_close(run([one, other]), expected, rtol=0, atol=1e-4)


def test_a_transfer_acts_between_temperatures_and_raw():
    model, inputs = held("llama"), inputs_for("llama")
    got = run([Temperature("L1H2", 2.0), transfer("L1H2"), raw("L1H2")])

    def by_hand(prompt, pos, row):
        sharp = row**2 / (row[row > 0] ** 2).sum()
        others = [key for key in range(len(row)) if key not in (0, 2)]
        return multiplied(moved(sharp, [0, 2], others, 0.3), {0: 0.2, 3: 0.2})

    with edited_by_hand(model, ["L1H2"], by_hand):
        expected = model(inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - run([transfer("L1H2")])).abs().max() > 1e-3


FORCED = ForceRow("all", pos=5, keys=[1])
ORDER = r"a transfer acts after temperatures and before policy raw\. Give them in that order\."
REFUSED = {
    "transfers": (transfer(), transfer(donors=(1,)), "what a transfer moves depends on .* another left"),
    "transfer_renorm": (transfer(), renorm(), "whether rows are reweighted before or after"),
    "renorm_transfer": (renorm(), transfer(), "whether rows are reweighted before or after"),
    "cut_transfer": (KnockOut("all", edges=[(5, 2)]), transfer(), "whether rows are reweighted before or after"),
    "transfer_tau": (transfer(), Temperature("all", 2.0), ORDER),
    "raw_transfer": (raw(), transfer(), ORDER),
    "raw_cut_transfer": (KnockOut("all", edges=[(5, 2)], policy="raw"), transfer(), ORDER),
    "forced_tau": (FORCED, Temperature("all", 2.0), "a forced row leaves nothing to another edit of it"),
    "renorm_forced": (renorm(), FORCED, "a forced row leaves nothing"),
    "forced_raw": (FORCED, raw(), "a forced row leaves nothing"),
    "forced_twice": (FORCED, ForceRow("all", pos=5, keys=[2]), "a forced row leaves nothing"),
    "transfer_scores": (
        transfer(),
        Call("blocks.1.attn.hook_attn_scores", lambda scores, hook: scores * 2),
        "acts before Recalibrate.* and was given after it; give it first",
    ),
    "pattern_tau": (
        Call("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern),
        Temperature("all", 2.0),
        "Temperature.* acts before edits of the pattern and was given after .*; give it first",
    ),
    "patched_forced": (
        Patch("L1H2", torch.zeros(2, 4, 11, 11), site="pattern"),
        FORCED,
        "ForceRow.* acts before edits of the pattern",
    ),
}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_depends_on_order_is_refused(kind, nested):
    one, other, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        run([one, other], nested)
    # and nothing is left behind
    assert not [name for module in held("llama").hf.modules() for name in module.__dict__ if "headlens" in name]


def test_the_message_names_both_edits_and_a_head():
    with pytest.raises(
        ValueError,
        match=r"Recalibrate\('all'\) and Recalibrate\('L1H3'\) both edit L1H3: .* different rows \(pos=\)\.$",
    ):
        run([transfer(), renorm("L1H3")])


APART = {
    "heads": [transfer(["L0H1", "L1H1"]), renorm(["L0H2", "L2H1"])],
    "rows": [transfer(pos=5), renorm(pos=6)],
    "rows_by_prompt": [transfer(pos=[5, 6]), renorm(pos=[6, 5])],
    "row_and_rows": [transfer(pos=5), renorm(pos=[6, 7])],
    "edges_and_row": [KnockOut("all", edges=[(5, 2), (7, 2)]), transfer(pos=6)],
    "edges_and_forced": [KnockOut("all", edges=[(5, 2), (7, 2)]), ForceRow("all", [6, 8], [0])],
    "edges": [KnockOut("all", edges=[(5, 2)]), KnockOut("all", edges=[(5, 3), (6, 2)], policy="raw")],
    "forced": [ForceRow("all", 5, [0]), ForceRow("all", 6, [1]), transfer(pos=7)],
}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("kind", APART)
def test_edits_that_never_meet_go_together(kind, nested):
    edits = APART[kind]
    torch.testing.assert_close(run(edits, nested), run(edits[::-1], nested), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (transfer(pos=5), renorm(pos=[6, 5])),
        (transfer(pos=[5, 6]), renorm(pos=[9, 6])),
        (KnockOut("all", edges=[(5, 2), (7, 2)]), transfer(pos=[8, 7])),
        (KnockOut("all", edges=[(5, 2), (7, 2)]), ForceRow("all", 7, [0])),
        (KnockOut("all", edges=[(5, 2)]), transfer()),
    ],
)
def test_edits_that_may_meet_do_not(one, other):
    for edits in ([one, other], [other, one]):
        with pytest.raises(ValueError, match="both edit L0H0"):
            run(edits)


def test_edits_elsewhere_are_nobodys_business():
    one = Ablate("L1H2", how="zero")
    edits = [one, transfer(), Gate("all", 0.5), Recalibrate("L1H2", {"a": First(1), "b": Recent(1)}, {"a": 0.5}, pos=7)]
    with pytest.raises(ValueError, match="both edit L1H2"):
        run(edits)
    assert run(edits[:3]).isfinite().all()
