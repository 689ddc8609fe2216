"""Copy scores against the model's own modules, called by name in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from end_tasks import scrambled
from headlens.analyses.roles.copy_scores import copy_scores
from headlens.hooks.model import wrap
from named_tasks import GONE, about, named_task
from planted_circuit import planted_model, planted_task
from tiny_models import held, tiny

TOP = 25


def llama_like(hf, layer, head, resid):
    block, group = hf.model.layers[layer], head // 2
    size = block.self_attn.head_dim
    normed = block.input_layernorm(resid)
    value = (normed @ block.self_attn.v_proj.weight.T)[:, group * size : (group + 1) * size]
    said = value @ block.self_attn.o_proj.weight[:, head * size : (head + 1) * size].T
    # Gemma norms what attention says; the norm of Llama's that has this name stands in front of the MLP
    if hasattr(block, "pre_feedforward_layernorm"):
        said = block.post_attention_layernorm(said)
    return said, hf.model.norm


def gpt2(hf, layer, head, resid):
    block = hf.transformer.h[layer]
    own = slice(head * 8, head * 8 + 8)
    normed = block.ln_1(resid) - block.ln_1.bias
    value = normed @ block.attn.c_attn.weight[:, 64:][:, own]
    return value @ block.attn.c_proj.weight[own], hf.transformer.ln_f


ORACLES = {"llama": llama_like, "gemma2": llama_like, "gpt2": gpt2}


@pytest.mark.parametrize("name", ORACLES)
@torch.no_grad()
def test_scores_are_those_of_the_model_s_own_modules(name):
    model, task = scrambled(name), named_task()
    found = copy_scores(model, task, top=TOP, progress=False)
    hf = deepcopy(model.hf).double()
    # one holds its answer only behind END, one nowhere
    assert all(np.isnan(each.samples[4:]).all() for each in found.values())
    for prompt in range(4):
        length, answer = int(task.positions["END"][prompt]) + 1, int(task.answers[prompt])
        row = task.clean_tokens[prompt, :length]
        here = row == answer
        resid = hf(row[None], output_hidden_states=True).hidden_states[1][0, here]
        for layer in range(3):
            for head in range(4):
                said, norm = ORACLES[name](hf, layer, head, resid)
                for key, turn in (("copy", 1), ("negative_copy", -1)):
                    logits = hf.lm_head(norm(turn * said))
                    best = logits.topk(TOP).indices
                    want = (best == answer).any(-1).double().mean()
                    np.testing.assert_allclose(found[key].samples[prompt, layer, head], want, rtol=0, atol=1e-6)
    assert len(np.unique(found["copy"].values)) > 3 and len(np.unique(found["negative_copy"].values)) > 3


def test_the_planted_heads_copy_or_write_elsewhere():
    found = copy_scores(planted_model(), planted_task(), top=1, progress=False)
    # all others write nothing that is read out, and so every token ties with the answer
    assert found["copy"].values.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert (found["negative_copy"].values == 0).all()


def test_a_head_turned_round_copies_negatively():
    model = planted_model()
    with torch.no_grad():
        model.hf.transformer.h[1].attn.c_proj.weight.neg_()
    found = copy_scores(model, planted_task(), top=1, progress=False)
    assert found["negative_copy"].values.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert (found["copy"].values == 0).all()


def test_prompts_without_their_answers_have_no_scores():
    task = named_task()
    gone = about(task, torch.full((6,), GONE), task.foils)
    found = copy_scores(held("llama"), gone, progress=False)
    assert np.isnan(found["copy"].values).all() and np.isnan(found["negative_copy"].samples).all()


def test_rows_in_small_parts_change_nothing(monkeypatch):
    whole = copy_scores(held("llama"), named_task(), top=TOP, progress=False)
    monkeypatch.setattr("headlens.analyses.roles.copy_scores._ROWS", 5)
    parts = copy_scores(held("llama"), named_task(), top=TOP, progress=False)
    for key, each in whole.items():
        assert np.array_equal(each.samples, parts[key].samples, equal_nan=True)


@pytest.mark.parametrize("top", [0, 120, 4000])
def test_a_top_of_none_or_all_is_refused(top):
    with pytest.raises(ValueError, match=f"top={top} was given; expected how many of the 120 tokens"):
        copy_scores(held("llama"), named_task(), top=top, progress=False)


def test_a_model_that_is_not_causal_is_refused():
    with pytest.raises(ValueError, match="is not a causal language model"):
        copy_scores(wrap(tiny("bert")), named_task(), progress=False)
