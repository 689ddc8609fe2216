"""What a report says of a run, against counts and sums over recorded patterns."""

import numpy as np
import pytest
import torch

from headlens.hooks.edits import Gate
from headlens.hooks.groups import First, TokenIds
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import HeadReport, Report
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Head
from tiny_models import HELD, held, inputs_for


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


EDITS = {
    "renorm": lambda: Recalibrate(["L1H0", "L1H3"], {"a": [0, 3]}, {"a": 0.2}),
    "raw": lambda: Recalibrate(["L1H0", "L1H3"], {"a": [0, 3]}, {"a": 0.2, "rest": 1.1}, policy="raw"),
    "transfer": lambda: Recalibrate(["L1H0", "L1H3"], donors=[2], receivers=[3], beta=0.2, policy="transfer"),
    "temperature": lambda: Temperature(["L1H0", "L1H3"], 2.0, pos=[4, 0]),
    "knock_out": lambda: KnockOut(["L1H0", "L1H3"], edges=[(4, 3), (7, 7), (9, 9)], policy="raw"),
    "forced": lambda: ForceRow(["L1H0", "L1H3"], pos=[7, 9], keys=[5, 6, 7]),
}
ABOUT = {"temperature": {(0, 4), (1, 0)}, "knock_out": {(p, row) for p in (0, 1) for row in (4, 7, 9)}}
ABOUT["forced"] = {(0, 7), (1, 9)}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("kind", EDITS)
def test_counts_and_sums_by_hand(name, kind):
    model, inputs = held(name), inputs_for(name)
    site, report = "blocks.1.attn.hook_pattern", Report()
    before = model.record(inputs, names_filter=site)[1][site].double().numpy()
    with model.edited(EDITS[kind](), report=report):
        model(inputs)
    with model.edited(EDITS[kind]()):
        after = model.record(inputs, names_filter=site)[1][site].double().numpy()
    assert sorted(report.heads) == [Head(1, 0), Head(1, 3)]
    for (_, head), one in report.heads.items():
        about = ABOUT.get(kind, {*np.ndindex(before.shape[0], before.shape[2])})
        moved = lost = touched = idle = 0
        for prompt, row in about:
            old, new = before[prompt, head, row], after[prompt, head, row]
            idle += kind == "transfer" and old[2] > 0 and old[3] < 1e-6
            if (old != new).any():
                touched += 1
                moved += sum(max(0, was - now) for was, now in zip(old, new, strict=True))
                lost += old.sum() - new.sum()
        assert (one.rows, one.touched, one.idle) == (len(about), touched, idle)
        np.testing.assert_allclose([one.moved, one.lost], [moved, lost], rtol=0, atol=1e-5)
        assert one.off < 1e-5
        assert touched > 0 and one.moved > 0
    if kind == "transfer" and name not in ("bert", "vit", "clip_vision"):
        assert any(one.idle for one in report.heads.values())


def test_padding_is_not_counted():
    model, ids = held("llama"), inputs_for("llama")["input_ids"].clone()
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    report = Report()
    with model.edited(Recalibrate("L0H1", {"a": First(1)}, {"a": 0.2}), report=report):
        model(ids, attention_mask=mask)
    # 11 rows and 7; the first sees itself alone and cannot change
    assert (report.heads[Head(0, 1)].rows, report.heads[Head(0, 1)].touched) == (18, 16)


@pytest.mark.parametrize("kind", ["renorm", "transfer", "forced"])
def test_a_cached_run_reports_what_a_whole_one_does(kind):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    whole, steps = Report(), Report()
    with model.edited(EDITS[kind](), report=whole):
        model(ids)
    with model.edited(EDITS[kind](), report=steps):
        past = model.hf(input_ids=ids[:, :4], use_cache=True).past_key_values
        for pos in range(4, 11):
            model.hf(input_ids=ids[:, pos : pos + 1], past_key_values=past)
    assert whole.heads.keys() == steps.heads.keys()
    for head, one in whole.heads.items():
        other = steps.heads[head]
        assert (one.rows, one.touched, one.idle) == (other.rows, other.touched, other.idle)
        np.testing.assert_allclose([one.moved, one.lost], [other.moved, other.lost], rtol=0, atol=1e-5)


def test_runs_add_up():
    model, inputs, report = held("llama"), inputs_for("llama"), Report()
    with model.edited(EDITS["renorm"](), report=report):
        model(inputs)
        once = report.heads[Head(1, 0)].moved
        model(inputs)
    assert report.heads[Head(1, 0)].rows == 44
    assert report.heads[Head(1, 0)].moved == 2 * once


def test_nested_reports_are_about_their_own_edits():
    model, inputs = held("llama"), inputs_for("llama")
    outer, inner, alone = Report(), Report(), Report()
    one, other = Temperature("L1H0", 2.0, pos=5), Recalibrate(["L1H3", "L2H0"], {"a": [0]}, {"a": 0.2})
    with model.edited(one, report=outer), model.edited(other, report=inner):
        model(inputs)
    with model.edited(one, other, report=alone):
        model(inputs)
    assert {str(head): head_report.rows for head, head_report in outer.heads.items()} == {"L1H0": 2}
    assert {str(head): head_report.rows for head, head_report in inner.heads.items()} == {"L1H3": 22, "L2H0": 22}
    assert {**outer.heads, **inner.heads} == alone.heads


def test_nested_reports_of_one_head_count_their_own_rows():
    model, inputs = held("llama"), inputs_for("llama")
    outer, inner = Report(), Report()
    one, other = Temperature("L1H0", 2.0, pos=5), Temperature("L1H0", 2.0, pos=[7, 0])
    with model.edited(one, report=outer), model.edited(other, report=inner):
        model(inputs)
    # row 0 sees one key, which no temperature can change
    assert [(report.heads[Head(1, 0)].rows, report.heads[Head(1, 0)].touched) for report in (outer, inner)] == [
        (2, 2),
        (2, 1),
    ]


def test_other_edits_report_nothing():
    model, inputs, report = held("llama"), inputs_for("llama"), Report()
    with model.edited(Gate("all", 0.5), report=report):
        model(inputs)
    assert report.heads == {}
    assert report.to_frame().empty


def test_the_table_has_means_over_touched_rows():
    heads = {
        Head(2, 1): HeadReport(rows=10, touched=4, moved=1.0, idle=3, lost=0.5, off=1e-7),
        Head(0, 3): HeadReport(rows=5),
    }
    frame = Report(heads).to_frame()
    assert frame.label.tolist() == ["L0H3", "L2H1"]
    assert frame.iloc[1].to_dict() == {
        "label": "L2H1",
        "layer": 2,
        "head": 1,
        "rows": 10,
        "touched": 4,
        "idle": 3,
        "moved": 0.25,
        "lost": 0.125,
        "off": 1e-7,
    }
    assert frame.iloc[0].moved == 0


def test_the_sentence():
    heads = {
        Head(2, 1): HeadReport(rows=10, touched=4, moved=1.0, idle=3, lost=0.5, off=1e-7),
        Head(0, 3): HeadReport(rows=5),
    }
    assert Report(heads).described() == (
        "4 of 15 rows of 1 of 2 heads changed; of a changed row's attention 25.0% moved and 12.5% was lost on average. "
        "Rows sum to what is promised within 1.0e-07. 3 rows had nothing to receive and were left alone."
    )
    assert "lost" not in Report({Head(0, 0): HeadReport(rows=5, touched=2, moved=0.5)}).described()


def test_rows_with_nothing_to_receive():
    """Donors that nobody can relieve: all rows before the receiver are left bit for bit alone, and counted."""
    model, inputs, report = held("llama"), inputs_for("llama"), Report()
    edit = Recalibrate("L0H1", donors=[0], receivers=[4], beta=0.1, policy="transfer")
    with model.edited(edit, report=report):
        z = model.record(inputs, names_filter="z")[1]["blocks.0.attn.hook_z"]
    plain = model.record(inputs, names_filter="z")[1]["blocks.0.attn.hook_z"]
    assert torch.equal(z[:, :4], plain[:, :4])
    assert (z[:, 4:, 1] != plain[:, 4:, 1]).any(-1).all()
    one = report.heads[Head(0, 1)]
    assert (one.rows, one.touched, one.idle) == (22, 14, 8)


def test_promises_are_kept_in_float32_on_long_rows():
    model, report = held("llama"), Report()
    ids = inputs_for("llama", batch=1, length=300)["input_ids"]
    transfer = Recalibrate(["L0H0", "L1H1"], donors=SinkRule(alpha=2.0), receivers="rest", beta=0.4, policy="transfer")
    edits = [transfer, Recalibrate("L2H2", {"a": TokenIds(tuple(range(40)))}, {"a": 5.0})]
    with model.edited(*edits, report=report):
        model(ids)
    assert all(0 < one.touched <= 300 and one.off < 1e-5 for one in report.heads.values())
