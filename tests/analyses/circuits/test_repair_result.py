"""A model whose repair is known, and what a result says of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import planted_circuit
from headlens.analyses.circuits.repair import repair
from headlens.analyses.task import Task

QUIET = {"progress": False}


def planted():
    """A guessing model with a head that could mend it: one copies what stands at place 1 more than at 3 and 5, another
    takes away from the answer what it reads, and reads the end, which is never an answer."""
    model = planted_circuit.planted_model()
    size, eye = planted_circuit.VOCABULARY, torch.eye(planted_circuit.VOCABULARY)
    token, position, answer = planted_circuit._TOKEN, planted_circuit._POSITION, planted_circuit._ANSWER
    attention = model.hf.transformer.h[1].attn
    keys = torch.zeros(size, size)
    keys[[1, 3, 5], 8] = torch.tensor([1.02, 1.0, 1.0])
    with torch.no_grad():
        attention.c_attn.weight.zero_()
        attention.c_proj.weight.zero_()
        planted_circuit._head(attention, 0, query=(position, eye), key=(position, keys), value=token, out=answer)
        planted_circuit._head(attention, 2, query=(position, eye), key=(position, eye), value=token, out=answer)
        attention.c_proj.weight[2 * planted_circuit.D_HEAD :] *= -1
    rng = np.random.default_rng(4)
    tokens = torch.tensor([rng.permutation(size)[:9].tolist() for _ in range(30)])
    slots, rows = torch.tensor([[1, 3, 5]] * 30), torch.arange(30)
    asked = rows % 3
    positions = {f"C{at + 1}": slots[:, at] for at in range(3)}
    positions |= {"C+": slots[rows, asked], "C-": slots[rows, (asked + 1) % 3]}
    answers, foils = tokens[rows, positions["C+"]], tokens[rows, positions["C-"]]
    labels = tuple(f"template {row % 6}" for row in range(30))
    return model, Task("planted", tokens, tokens.clone(), torch.full((30,), 9), answers, foils, positions, labels)


@pytest.fixture(scope="module")
def mended():
    return repair(*planted(), {"negative": "L1H2", "idle": ["L0H2"]}, n_random=9, seed=3, **QUIET)


def test_a_planted_head_mends_the_model_and_its_controls_do_not(mended):
    gain = mended.gain("negative")
    assert mended.before.right.tolist() == [row % 3 == 0 for row in range(30)]
    assert mended.after["negative"].right.all() and (gain.fixed, gain.broken) == (20, 0)
    assert gain.points == pytest.approx(200 / 3) and gain.p < 1e-4 and gain.interval[0] > 30
    # the only other heads of its layer copy, or do nothing
    assert mended.random_heads["negative"] == [((1, 0),), ((1, 1),)] or len(mended.random_heads["negative"]) == 2
    assert mended.p_of_heads("negative") == pytest.approx(1 / 3)
    assert mended.other_tokens["negative"].right.shape == (9, 30)
    assert np.array_equal(mended.other_tokens["negative"].right, mended.before.right[None].repeat(9, 0))
    assert np.array_equal(mended.after["idle"].logit_diff, mended.before.logit_diff)
    assert mended.gain("idle").fixed == 0 and mended.gain("idle").p == 1


def test_the_frame_counts_what_the_readings_say(mended):
    frame = mended.to_frame().set_index(["arm", "forced"])
    assert len(frame) == 1 + 2 * 3
    row = frame.loc["negative", "wrong options"]
    assert row.accuracy == row.among_options == 1 and (row.fixed, row.broken) == (20, 0) and row.p < 1e-4
    # all right: no telling how far it could have come out otherwise
    assert np.isnan(row.accuracy_low) and row.logit_diff_low < row.logit_diff < row.logit_diff_high
    others = frame.loc["negative", "wrong options, other heads"]
    right = mended.other_heads["negative"].right
    assert others.accuracy == pytest.approx(right.mean()) and others.most == right.mean(-1).max()
    assert others.draws == len(right) == 2 and np.isnan(others.p)
    assert others.accuracy_low <= others.accuracy <= others.accuracy_high
    assert frame.loc["negative", "other tokens"].broken == 0


def test_everything_says_that_it_is_an_oracle(mended):
    assert mended.oracle is True and mended.provenance["oracle"] is True
    assert mended.described().startswith("ORACLE") and "66.7 points" in mended.described()
    frame = mended.to_frame()
    assert frame.oracle.tolist() == [forced != "no edit" for forced in frame.forced]
    assert "ORACLE" in repair.__doc__
    with pytest.raises((TypeError, ValueError), match="oracle"):
        replace(mended, oracle=False)


def test_equal_seeds_draw_equal_controls(mended):
    again = repair(*planted(), {"negative": "L1H2"}, n_random=9, seed=3, **QUIET)
    assert again.random_heads["negative"] == mended.random_heads["negative"]
    for kind in ("other_tokens", "other_heads"):
        one, other = (getattr(each, kind)["negative"].logit_diff for each in (again, mended))
        assert np.array_equal(one, other)
    other = repair(*planted(), {"negative": "L1H2"}, n_random=9, seed=4, **QUIET)
    assert not np.array_equal(other.other_tokens["negative"].logit_diff, mended.other_tokens["negative"].logit_diff)
    without = repair(*planted(), {"negative": "L1H2"}, n_random=0, **QUIET)
    assert len(without.to_frame()) == 2 and "draws" not in without.described()
