"""Choices against plain forwards, one prompt and one choice at a time."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from choice_arrays import ragged_choices
from end_tasks import scrambled
from headlens.analyses.choice_scores import choice_log_prob, choice_logits, choice_runs, correct
from headlens.hooks.edits import Ablate, Gate
from tiny_models import GENERATING, held


def own_choices(model, task, *edits):
    """Per prompt, the list of its choices' logits: forwards of one prompt at a time."""
    found = []
    for prompt, length in enumerate(task.lengths.tolist()):
        tokens = task.tokens[prompt : prompt + 1, :length]
        with torch.no_grad():
            if edits:
                with model.edited(*edits):
                    logits = model(tokens)[0, length - 1]
            else:
                logits = model(tokens)[0, length - 1]
        found.append([float(logits[token]) for token in task.choices[prompt].tolist() if token != -1])
    return found


def some_logits(*cell):
    return torch.randn(*cell, 7, 100, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cell", [(), (3,), (2, 3)])
def test_scores_equal_those_of_one_choice_at_a_time(cell):
    task, logits = ragged_choices(), some_logits(*cell)
    chosen = choice_logits(logits, task)
    right, clear = correct(chosen, task), choice_log_prob(chosen, task)
    assert chosen.shape == (*cell, 7, 4) and right.shape == clear.shape == (*cell, 7)
    for at in np.ndindex(*cell, 7):
        ids = [token for token in task.choices[at[-1]].tolist() if token != -1]
        own = [float(logits[at][token]) for token in ids]
        answer = int(task.answers[at[-1]])
        assert chosen[at].tolist() == own + [-math.inf] * (4 - len(own))
        assert bool(right[at]) == (int(np.argmax(own)) == answer)
        assert float(clear[at]) == pytest.approx(log_softmax(own)[answer], abs=1e-5)
    assert 0 < right.float().mean() < 1


def test_a_tie_is_wrong():
    task = ragged_choices().subset([0, 1])
    logits = torch.zeros(2, 100)
    assert correct(choice_logits(logits, task), task).tolist() == [False, False]
    logits[0, 6], logits[1, 10], logits[1, 8] = 1e-6, 3, 3
    assert correct(choice_logits(logits, task), task).tolist() == [True, False]


def test_choices_that_are_minus_infinity_are_wrong():
    task = ragged_choices().subset([0])
    assert correct(torch.full((1, 2), -math.inf), task).tolist() == [False]


def test_nan_is_refused_where_it_stands():
    task, logits = ragged_choices(), some_logits(2)
    # of prompt 3 this token is a choice, of prompt 4 it is none
    logits[1, 3:5, 70] = math.nan
    with pytest.raises(ValueError, match="The logits of prompt 3 are NaN"):
        correct(choice_logits(logits, task), task)
    logits[1, 3, 70] = 0
    correct(choice_logits(logits, task), task)


def test_the_gradient_reaches_the_choices_and_nothing_else():
    task, logits = ragged_choices(), some_logits().requires_grad_()
    choice_log_prob(choice_logits(logits, task), task).sum().backward()
    for prompt, row in enumerate(logits.grad):
        ids = [token for token in task.choices[prompt].tolist() if token != -1]
        expected = -logits[prompt, ids].detach().softmax(-1)
        expected[task.answers[prompt]] += 1
        torch.testing.assert_close(row[ids], expected)
        assert row.isfinite().all() and row.count_nonzero() == len(ids)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((6, 100), r"shape \[6, 100\]; expected \[\.\.\., prompt, vocabulary\] with the 7 prompts of 'ragged'"),
        ((7, 91), "Prompt 5 contains the token id 91, but the model's vocabulary is 0 to 90"),
    ],
)
def test_logits_that_do_not_belong_to_the_task_are_refused(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        choice_logits(torch.zeros(shape), ragged_choices())


@pytest.mark.parametrize("score", [correct, choice_log_prob])
def test_whole_logits_in_place_of_those_of_the_choices_are_refused(score):
    with pytest.raises(ValueError, match=r"shape \[7, 100\]; expected \[\.\.\., prompt, choice\] with the \[7, 4\]"):
        score(some_logits(), ragged_choices())


@pytest.mark.parametrize("name", GENERATING)
def test_runs_equal_forwards_of_one_prompt_at_a_time(name):
    model, task = scrambled(name), ragged_choices()
    found = choice_runs(model, task)
    assert found.dtype == torch.float32 and found.shape == (7, 4)
    for row, own in zip(found.tolist(), own_choices(model, task), strict=True):
        np.testing.assert_allclose(row[: len(own)], own, rtol=0, atol=1e-4)
        assert row[len(own) :] == [-math.inf] * (4 - len(own))


@pytest.mark.parametrize("batch_tokens", [1, 24, 10**6])
def test_batches_of_any_size_give_the_same(batch_tokens):
    model, task = held("llama"), ragged_choices()
    torch.testing.assert_close(choice_runs(model, task, batch_tokens=batch_tokens), choice_runs(model, task))


def test_a_batch_holds_as_many_tokens_as_allowed(monkeypatch):
    model, task, shapes = held("llama"), ragged_choices(), []
    plain = type(model)._forward

    def seen(self, tokens, kwargs):
        shapes.append(tuple(tokens.shape))
        return plain(self, tokens, kwargs)

    monkeypatch.setattr(type(model), "_forward", seen)
    choice_runs(model, task, batch_tokens=24)
    assert shapes == [(1, 5), (2, 7), (1, 9), (2, 12), (1, 12)]


def test_edits_act_and_are_gone_afterwards():
    model, task = held("llama"), ragged_choices()
    plain = choice_runs(model, task)
    edits = (Ablate("L1H2"), Gate([(0, 1), (2, 3)], 3.0))
    edited = choice_runs(model, task, edits)
    for row, own in zip(edited.tolist(), own_choices(model, task, *edits), strict=True):
        np.testing.assert_allclose(row[: len(own)], own, rtol=0, atol=1e-4)
    assert (edited - plain).nan_to_num().abs().max() > 0.05
    assert torch.equal(choice_runs(model, task), plain)


def test_without_edits_nothing_is_entered(monkeypatch):
    def refused(self, *edits):
        raise AssertionError("edited was entered")

    model = held("llama")
    monkeypatch.setattr(type(model), "edited", refused)
    choice_runs(model, ragged_choices())
    with pytest.raises(AssertionError):
        choice_runs(model, ragged_choices(), [Ablate("L0H0")])


def test_a_task_of_another_vocabulary_is_refused():
    task = ragged_choices()
    big = type(task)("big", task.tokens, task.lengths, task.choices.masked_fill(task.choices == 91, 120), task.answers)
    with pytest.raises(ValueError, match="Prompt 5 contains the token id 120"):
        choice_runs(held("llama"), big)
