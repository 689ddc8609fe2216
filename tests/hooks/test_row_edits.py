"""Temperatures, knock-outs and forced rows on every architecture, against rows edited one by one."""

import numpy as np
import pytest
import torch

from dense_rows import edited_by_hand, multiplied, renormalised
from headlens.hooks.edits import Call
from headlens.hooks.groups import First
from headlens.hooks.report import Report
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.kernels.algebra import tempered
from headlens.kernels.reference import attention_pattern
from tiny_models import HELD, held, inputs_for
from untyped import untyped

HEADS = ["L0H1", "L1H2", "L2H0", "L2H3"]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def cut_edges(prompt, pos, row):
    return {5: multiplied(row, {2: 0.0, 3: 0.0}), 7: multiplied(row, {7: 0.0})}.get(pos, row)


def renormalised_edges(prompt, pos, row):
    after = cut_edges(prompt, pos, row)
    return row if after is row else renormalised(row, after)


def cut_keys(prompt, pos, row):
    after = multiplied(row, {3: 0.0, 4: 0.0})
    return renormalised(row, after) if pos == [8, 6][prompt] else row


EDGES = [(5, 2), (5, 3), (7, 7)]
KNOCK_OUTS = {
    "edges": (lambda: KnockOut(HEADS, edges=EDGES), renormalised_edges),
    "raw_edges": (lambda: KnockOut(HEADS, edges=torch.tensor(EDGES), policy="raw"), cut_edges),
    "keys": (lambda: KnockOut(HEADS, groups=[3, 4], pos=[8, 6]), cut_keys),
    "raw_keys": (lambda: KnockOut(HEADS, groups=0, policy="raw"), lambda prompt, pos, row: multiplied(row, {0: 0.0})),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("kind", KNOCK_OUTS)
def test_knock_outs_by_hand(name, kind):
    model, inputs = held(name), inputs_for(name)
    build, rule = KNOCK_OUTS[kind]
    with model.edited(build()):
        got, cache = model.record(inputs, names_filter="pattern")
        unrecorded = model(inputs)
    with edited_by_hand(model, HEADS, rule):
        expected, by_hand = model.record(inputs, names_filter="pattern")
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(unrecorded, expected, rtol=0, atol=2e-4)
    for site, pattern in cache.items():
        torch.testing.assert_close(pattern, by_hand[site], rtol=0, atol=1e-5)
    assert (got - model(inputs)).abs().max() > 1e-3


def test_what_becomes_of_cut_attention_is_a_choice():
    model, inputs = held("llama"), inputs_for("llama")
    key = "blocks.0.attn.hook_pattern"
    plain = model.record(inputs, names_filter="pattern")[1][key][:, 1, 8]
    rows = {}
    for policy in ("renorm", "raw"):
        with model.edited(KnockOut("L0H1", edges=[(8, 3), (8, 4)], policy=policy)):
            rows[policy] = model.record(inputs, names_filter="pattern")[1][key][:, 1, 8]
    torch.testing.assert_close(rows["renorm"].sum(-1), torch.ones(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows["raw"].sum(-1), 1 - plain[:, [3, 4]].sum(-1), rtol=0, atol=1e-5)
    assert torch.equal(rows["raw"][:, [0, 1, 2, 5, 6, 7, 8]], plain[:, [0, 1, 2, 5, 6, 7, 8]])


TAUS = {
    "one": (1.7, lambda pos: 1.7),
    "by_position": (torch.linspace(0, 2, 30), lambda pos: float(torch.linspace(0, 2, 30)[pos])),
    "list": ([0.5] * 40, lambda pos: 0.5),
    "function": (lambda queries: 1 + 0.1 * queries, lambda pos: 1 + 0.1 * pos),
    "constant_function": (lambda queries: torch.tensor(0.4), lambda pos: 0.4),
    "zero": (0.0, lambda pos: 0.0),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("kind", TAUS)
def test_temperatures_by_hand(name, kind):
    """Against scores multiplied one row at a time; a learned sink keeps its logit."""
    model, inputs = held(name), inputs_for(name)
    tau, of_row = TAUS[kind]
    chosen = [8, 6]

    def function(scores, hook):
        for prompt, pos in enumerate(chosen):
            own = scores[prompt, 2, pos]
            own[own != -torch.inf] *= of_row(pos)

    with model.edited(Temperature("L1H2", tau, pos=chosen)):
        got = model(inputs)
    with model.edited(Call("blocks.1.attn.hook_attn_scores", function)):
        expected = model(inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - model(inputs)).abs().max() > 1e-4


@pytest.mark.parametrize("name", HELD)
def test_tau_without_rows_reaches_every_row(name):
    model, inputs = held(name), inputs_for(name)
    with model.edited(Temperature(HEADS, 0.3)):
        got = model(inputs)

    def function(scores, hook):
        for head in {0: [1], 1: [2], 2: [0, 3]}[hook.layer()]:
            scores[:, head] = torch.where(scores[:, head] == -torch.inf, -torch.inf, scores[:, head] * 0.3)

    with model.edited(Call(lambda site: site.startswith("blocks") and "scores" in site, function)):
        expected = model(inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", HELD)
def test_forced_rows_are_uniform_over_their_keys(name):
    model, inputs = held(name), inputs_for(name)
    keys = torch.tensor([[2, 5], [4, 4]])

    def forced(prompt, pos, row):
        if pos != [7, 5][prompt]:
            return row
        out = np.zeros_like(row)
        own = sorted({int(key) for key in keys[prompt] if not np.isnan(row[key])})
        out[own] = 1 / len(own)
        return out

    with model.edited(ForceRow(HEADS, pos=[7, 5], keys=keys)):
        got, cache = model.record(inputs, names_filter=["pattern", "attn_scores"])
    if name != "gpt_oss":
        with edited_by_hand(model, HEADS, forced):
            expected = model(inputs)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    for head, layer in ((1, 0), (0, 2)):
        # tau 0 and all other scores -inf, of which learned sinks take their share
        scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][:1, head : head + 1, 7:8]
        flat = tempered(scores, torch.zeros(1))
        allowed = torch.isin(torch.arange(scores.shape[-1]), keys[0])
        module = model.layers[layer].attention
        sinks = module.sinks[head : head + 1] if name == "gpt_oss" else None
        expected = attention_pattern(flat.masked_fill(~allowed, -torch.inf), sinks)
        got_rows = cache[f"blocks.{layer}.attn.hook_pattern"][:1, head : head + 1, 7:8]
        torch.testing.assert_close(got_rows, expected, rtol=0, atol=1e-6)


def test_a_forced_row_is_temperature_zero_with_the_rest_knocked_out():
    model, inputs = held("llama"), inputs_for("llama")
    with model.edited(ForceRow("all", pos=9, keys=[1, 6])):
        forced = model(inputs)
    others = [(9, key) for key in range(10) if key not in (1, 6)]
    for edits in ((0, 1), (1, 0)):
        both = [Temperature("all", 0.0, pos=9), KnockOut("all", edges=others)]
        with model.edited(*(both[at] for at in edits)):
            torch.testing.assert_close(model(inputs), forced, rtol=0, atol=1e-5)


NEUTRAL = {
    "tau_1": lambda: Temperature("all", 1.0),
    "taus_1": lambda: Temperature("all", lambda queries: torch.ones(len(queries))),
    "no_such_key": lambda: KnockOut("all", groups=[90]),
    "hidden_edge": lambda: KnockOut("all", edges=[(2, 95)]),
    "raw_no_such_key": lambda: KnockOut("all", groups=[90], policy="raw"),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("kind", NEUTRAL)
def test_neutral_row_edits_are_bit_for_bit_the_unedited_run(name, kind):
    model, inputs = held(name), inputs_for(name)
    report = Report()
    with model.edited(NEUTRAL[kind](), report=report):
        edited = model(inputs)
    assert torch.equal(edited, model(inputs))
    assert sum(one.touched for one in report.heads.values()) == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Temperature("all", -1.0), "tau=-1.0; expected finite numbers from 0"),
        (lambda: Temperature("all", float("nan")), "tau=nan"),
        (lambda: Temperature("all", [1.0, float("inf")]), r"tau=\[1.0, inf\]"),
        (lambda: Temperature("all", torch.ones(2, 3)), "one, or one for each position"),
        (lambda: untyped(Temperature, "all", "warm"), "tau='warm'"),
        (lambda: KnockOut("all"), r"either edges=\[\(query, key\), ...\] or groups=, one of the two"),
        (lambda: KnockOut("all", edges=[(3, 1)], groups=[0]), "one of the two"),
        (lambda: KnockOut("all", edges=[(3, -1)]), "pairs of positions from 0"),
        (lambda: untyped(KnockOut, "all", edges=(3, 1)), r"\(3, 1\) was given"),
        (lambda: untyped(KnockOut, "all", edges=[(3.5, 1)]), "pairs of positions from 0"),
        (lambda: KnockOut("all", groups=[0], policy="transfer"), "renorm or raw; 'transfer' was given"),
        (lambda: ForceRow("all", None, [0]), "needs pos="),
        (lambda: ForceRow("all", 3, []), "is not a group of keys"),
        (lambda: ForceRow("all", -3, [0]), "negative"),
    ],
)
def test_impossible_row_edits_are_refused_when_made(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KnockOut("L1H3", groups=First(20)), r"left row 0 of L1H3 \(prompt 0\) no key .* one visible key or more"),
        (KnockOut("L1H3", edges=[(1, 0), (1, 1)]), r"left row 1 of L1H3 .* or cut with policy='raw'"),
        (ForceRow("L1H3", 4, [6]), r"left row 4 of L1H3 \(prompt 0\) no key"),
        (ForceRow("L1H3", [4, 5, 6], [0]), "3 entries for a batch of 2"),
        (Temperature("all", [1.0] * 10), "10 values of tau and the run reached position 10"),
        (Temperature("all", lambda queries: torch.ones(3)), "gave 3 values of tau for 11 rows"),
        (Temperature("all", lambda queries: -queries), "expected finite numbers from 0"),
        (Temperature("L0H4", 2.0), "L0H4 does not exist"),
    ],
)
def test_row_edits_that_do_not_fit_are_refused(edit, message):
    model = held("llama")
    with pytest.raises(ValueError, match=message), model.edited(edit):
        model(inputs_for("llama"))


def test_a_row_may_lose_every_key_under_raw():
    model, inputs = held("llama"), inputs_for("llama")
    with model.edited(KnockOut("L1H3", groups=First(20), policy="raw")):
        got, cache = model.record(inputs, names_filter="z")
    assert not cache["blocks.1.attn.hook_z"][:, :, 3].any()
    assert got.isfinite().all()
