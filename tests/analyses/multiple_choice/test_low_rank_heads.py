"""Heads in a subspace: a head built to live in two dimensions, and projections against plain hooks."""

from itertools import product

import numpy as np
import pytest
import torch

from headlens.analyses.multiple_choice.low_rank_heads import low_rank
from headlens.analyses.multiple_choice.options import options_of
from headlens.analyses.multiple_choice.projected_heads import Basis, Subspace
from headlens.analyses.tasks import lettered
from headlens.hooks.model import wrap
from lettered_models import lettered_model, lettered_task, lettered_weights

LAYER, HEAD, D_HEAD, RANK = 1, 2, 8, 2
NAME = f"L{LAYER}H{HEAD}"


@pytest.fixture(scope="module")
def planted():
    """A GPT-2 (no rotation) in which one head's queries and keys vary in two directions only, about means of their
    own."""
    hf, draw = lettered_weights("gpt2"), torch.Generator().manual_seed(1)
    weight = hf.transformer.h[LAYER].attn.c_attn.weight
    with torch.no_grad():
        for side in range(2):
            own = slice(side * 32 + HEAD * D_HEAD, side * 32 + (HEAD + 1) * D_HEAD)
            first, second = torch.randn(32, RANK, generator=draw), torch.randn(RANK, D_HEAD, generator=draw)
            weight[:, own] = 0.5 * first @ second
    return wrap(hf, lettered_model("gpt2").tokenizer, name="planted")


def test_a_head_of_two_dimensions_is_kept_by_two_and_not_by_one(planted):
    found = low_rank(planted, lettered_task(n=24), [NAME], ranks=(1, 2, 3), draws=3)
    frame = found.to_frame().set_index(["keys", "subspace", "rank"])
    for keys, rank in product(("row", "letters"), (2, 3)):
        row = frame.loc[keys, "singular", rank]
        assert row["letters_kept"] == row["row_kept"] == 1 and row["moved"] < 1e-5
        assert row["accuracy"] == row["plain_accuracy"] and abs(row["logit_diff_change"]) < 1e-4
        assert row["query_energy"] == row["key_energy"] == pytest.approx(1)
    one, other = frame.loc["row", "singular", 1], frame.loc["row", "random", 2]
    assert one["moved"] > 0.02 and one["query_energy"] < 0.999 and one["row_kept"] < 1
    assert frame.loc["letters", "singular", 1]["moved"] < one["moved"]
    assert other["moved"] > 0.1 and other["row_kept"] < 1 and np.isnan(other["query_energy"])


def test_each_number_is_that_of_plain_hooks():
    """Queries, keys and values read off c_attn, projected by hand in float64, and z put back before c_proj."""
    model, task = lettered_model("gpt2"), lettered_task(n=12)
    found, options = low_rank(model, task, [NAME], ranks=(1, 3), draws=1), options_of(model, task)
    attention, kept = model.hf.transformer.h[LAYER].attn, {}

    def forward(prompt, z=None):
        def put(_, args):
            value = args[0].clone()
            value[0, -1, HEAD * D_HEAD : (HEAD + 1) * D_HEAD] = z
            return (value,)

        handles = [attention.c_attn.register_forward_hook(lambda _, args, output: kept.update(qkv=output[0].double()))]
        if z is not None:
            handles.append(attention.c_proj.register_forward_pre_hook(put))
        with torch.no_grad():
            logits = model.hf(task.clean_tokens[prompt : prompt + 1, : task.lengths[prompt]]).logits[0, -1]
        for handle in handles:
            handle.remove()
        parts = [kept["qkv"][:, side * 32 + HEAD * D_HEAD :][:, :D_HEAD] for side in range(3)]
        return logits[options.tokens[prompt]].double(), *parts

    queries, keys = [], []
    for prompt in found.provenance["made_from"]:
        _, query, key, _ = forward(prompt)
        queries.append(query[-1:])
        keys.append(key[options.letter_at[prompt]])
    queries, keys = torch.cat(queries), torch.cat(keys)
    assert not {*found.provenance["made_from"]} & {*found.provenance["held_out"]}

    def projected(vectors, reference, rank):
        _, axes = torch.linalg.eigh((reference - reference.mean(0)).T @ (reference - reference.mean(0)))
        best = axes[:, -rank:]
        return reference.mean(0) + (vectors - reference.mean(0)) @ best @ best.T

    for (at, rank), kind in product(enumerate((1, 3)), range(2)):
        for row, prompt in enumerate(found.provenance["held_out"]):
            plain, query, key, value = forward(prompt)
            near, far = projected(query[-1], queries, rank), projected(key, keys, rank)
            if kind:
                here = torch.zeros(len(key), 1, dtype=torch.bool)
                here[options.letter_at[prompt]] = True
                far = torch.where(here, far, key)
            scores, before = far @ near / D_HEAD**0.5, key @ query[-1] / D_HEAD**0.5
            logits, *_ = forward(prompt, (scores.softmax(0) @ value).float())
            letters, right = options.letter_at[prompt], int(options.right[prompt])
            want = {
                "letters_kept": scores[letters].argmax() == before[letters].argmax(),
                "row_kept": scores.argmax() == before.argmax(),
                "moved": (scores.softmax(0) - before.softmax(0)).abs().sum() / 2,
                "accuracy": logits.argmax() == right,
                "logit_diff": logits[right] - (logits.sum() - logits[right]) / 3,
            }
            got = {name: float(found.samples[name][row, 0, at, 0, kind]) for name in want}
            assert got == pytest.approx({name: float(each) for name, each in want.items()}, abs=1e-4)
            assert found.plain["logit_diff"][row] == pytest.approx(
                float(plain[right] - (plain.sum() - plain[right]) / 3), abs=1e-4
            )


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_all_dimensions_change_nothing(name):
    """With rotations, grouped keys, sliding windows and soft caps."""
    found = low_rank(lettered_model(name), lettered_task(n=20), ["L0H3", "L2H0"], ranks=(1, 8), draws=2)
    whole, one = (({key: each[:, :, at] for key, each in found.samples.items()}) for at in (1, 0))
    assert whole["letters_kept"].min() == whole["row_kept"].min() == 1 and whole["moved"].max() < 1e-5
    plain = found.plain["logit_diff"][:, None, None, None]
    np.testing.assert_allclose(whole["logit_diff"], np.broadcast_to(plain, (10, 2, 2, 2)), rtol=0, atol=1e-4)
    assert one["moved"].max() > 0.02


def test_subspaces_by_hand():
    vectors = torch.tensor([[3.0, 1.0, 5.0], [-1.0, 1.0, 5.0], [1.0, 2.0, 5.0], [1.0, 0.0, 5.0]])
    basis = Basis.of(vectors, vectors)
    np.testing.assert_allclose(basis.query.mean, [1, 1, 5])
    flat = basis.singular(1).key.onto(torch.tensor([[7.0, 7.0, 7.0]]))
    np.testing.assert_allclose(flat, [[7, 1, 5]], atol=1e-6)
    np.testing.assert_allclose(basis.energy(1), [0.8, 0.8])
    draws = [basis.random(2, torch.Generator().manual_seed(4)) for _ in range(2)]
    np.testing.assert_array_equal(draws[0].query.directions, draws[1].query.directions)
    np.testing.assert_allclose(draws[0].key.directions.T @ draws[0].key.directions, np.eye(2), atol=1e-12)
    assert not torch.equal(draws[0].query.directions, draws[0].key.directions)
    onto = Subspace(torch.zeros(3).double(), draws[0].key.directions).onto(vectors)
    assert torch.linalg.matrix_rank(onto) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": (0, 1)}, r"Ranks from 0 to 1 were given; 5 prompts and heads of 8 dimensions have room for 1 to 4"),
        ({"ranks": (5,)}, r"Ranks from 5 to 5 were given; .* Give other ranks or more prompts"),
        ({"ranks": ()}, "1 heads, 0 ranks and draws=5 were given"),
        ({"ranks": (1,), "draws": 0}, "1 heads, 1 ranks and draws=0 were given"),
        ({"ranks": (1,), "heads": ["L9H0"]}, "Head L9H0 does not exist"),
    ],
    ids=["none", "many", "no-ranks", "no-draws", "head"],
)
def test_bad_arguments_get_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        low_rank(lettered_model("gpt2"), lettered_task(), **{"heads": [NAME], **arguments})


def test_a_model_that_does_not_run_from_end_is_refused():
    hf = lettered_weights("gpt2")
    # each position's block output takes something from the one before
    hf.transformer.h[2].register_forward_hook(lambda module, args, output: output + output.roll(1, 1))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel does not run from END alone .* off by"):
        low_rank(wrap(hf, lettered_model("gpt2").tokenizer), lettered_task(), [NAME], ranks=(1,))


@pytest.mark.real
def test_the_real_model_with_whole_heads_is_the_model(smollm2):
    found = low_rank(smollm2, lettered(smollm2, n=8, shots=0), ["L20H0"], ranks=(3,), draws=1)
    assert found.samples["moved"].shape == (4, 1, 1, 2, 2) and (found.samples["moved"] <= 1).all()
    np.testing.assert_allclose(found.energy, found.energy.clip(0.5, 1))
