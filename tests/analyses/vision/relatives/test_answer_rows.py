"""Answers, and the attention that says them, against transformers' own cached generation."""

import pytest
import torch

from headlens.analyses.vision.answers import answered
from headlens.analyses.vision.relatives.answer_rows import answer_rows, layers_at_depth
from headlens.analyses.vision.replies import replies
from headlens.analyses.vision.samples import Samples
from plain_answers import plain_answer
from tiny_models import held
from tiny_samples import sample

SAMPLES = Samples("some", (sample(5, start=(2, 8)), sample(9, pictures=2, seed=1), sample(5, seed=2, start=(2, 9))))


def said_to(model, steps):
    return [torch.tensor(one.whole) for one in replies(model, SAMPLES, steps, batch=2)]


def test_answers_are_those_of_transformers():
    for inputs, said in zip(SAMPLES.inputs, said_to(held("llava"), 6), strict=True):
        assert said.tolist() == plain_answer(inputs, 6)[0].tolist()


def test_an_answer_stops_where_its_text_ends(monkeypatch):
    model = held("llava")
    whole = said_to(model, 6)
    end = int(whole[0][2])
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", [end, 3])
    for before, after in zip(whole, said_to(model, 6), strict=True):
        before = before.tolist()
        assert after.tolist() == (before[: before.index(end) + 1] if end in before else before)


@pytest.mark.parametrize("layers", [(0, 2), (1,)])
def test_rows_are_those_of_cached_steps(layers):
    model = held("llava")
    # of different lengths in prompts that run together
    answers = [said[:count] for said, count in zip(said_to(model, 6), (6, 4, 1), strict=True)]
    found = answer_rows(model, SAMPLES, answers, layers, batch=3)
    for inputs, answer, rows in zip(SAMPLES.inputs, answers, found, strict=True):
        steps = plain_answer(inputs, 6)[1][: len(answer)]
        assert rows.shape == (len(layers), len(answer), inputs["input_ids"].shape[1] + len(answer) - 1)
        for at, step in enumerate(steps):
            wanted = step[[*layers]].mean(1)
            torch.testing.assert_close(rows[:, at, : wanted.shape[1]].double(), wanted, rtol=1e-4, atol=1e-6)
            assert not rows[:, at, wanted.shape[1] :].any()


def test_prompts_that_end_up_equally_long_keep_their_own_steps():
    model = held("llava")
    some = Samples("two", (sample(5), sample(8, seed=1)))
    answers = [torch.tensor([7, 31, 5, 88]), [12]]
    together = answer_rows(model, some, answers, [1], batch=2)
    alone = [answer_rows(model, some.subset([at]), [answers[at]], [1])[0] for at in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_inputs_grow_with_their_prompt():
    inputs = sample(4)
    more = {"attention_mask": torch.ones_like(inputs["input_ids"]), "types": torch.ones_like(inputs["input_ids"])}
    (grown,) = answered(held("llava"), Samples("one", ({**inputs, **more},)), [[5, 6, 7]]).inputs
    assert grown["input_ids"][0, -3:].tolist() == [*inputs["input_ids"][0, -1:].tolist(), 5, 6]
    assert grown["attention_mask"][0, -2:].tolist() == [1, 1] and grown["types"][0, -2:].tolist() == [0, 0]
    assert grown["pixel_values"] is inputs["pixel_values"]


def test_layers_at_the_same_depth():
    assert layers_at_depth(32, 20, 25, 32) == (20, 21, 22, 23, 24, 25)
    assert layers_at_depth(28, 20, 25, 32) == (17, 18, 19, 20, 21)
    assert layers_at_depth(4, 20, 25, 32) == (2, 3) and layers_at_depth(1, 20, 25, 32) == (0,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: answered(held("llava"), SAMPLES, [[5]]), "1 answers were given for 3"),
        (lambda: answered(held("llava"), SAMPLES.subset([0]), [[]]), "Answer 0"),
        (lambda: answer_rows(held("llava"), SAMPLES, [[5]] * 3, [3]), "Layer 3"),
    ],
    ids=["count", "empty", "layer"],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
