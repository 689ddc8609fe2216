"""T-VHD of an answer against one plain run for each of its tokens."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.divergence.token_divergence import token_divergence
from headlens.analyses.vision.samples import Samples
from pictured import pictured, plain_run, plain_without
from tiny_models import IMAGE_TOKEN, held, tiny

SAMPLES = pictured(((2, 5), (1, 7)))
ANSWERS = (torch.tensor([7, 31, 5, 88]), [12])


def with_answer(inputs, said):
    ids = torch.cat([inputs["input_ids"], torch.as_tensor(said)[None]], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": inputs["pixel_values"]}


@pytest.mark.parametrize(("way", "position"), [("deleted", "shifted"), ("deleted", "kept"), ("blank", "kept")])
def test_every_token_equals_a_run_up_to_it(way, position):
    found = token_divergence(
        held("llava"), SAMPLES, ANSWERS, k=3, without=way, position=position, zero_outliers=False, progress=False
    )
    hf = tiny("llava")
    for inputs, answer, series in zip(SAMPLES.inputs, ANSWERS, found, strict=True):
        answer = torch.as_tensor(answer)
        assert series.tokens.tolist() == answer.tolist() and series.heads.shape == (len(answer), 3, 4)
        for at in range(len(answer)):
            so_far = with_answer(inputs, answer[:at])
            z, other = (plain_run(hf, run)[0][-1] for run in (so_far, plain_without(so_far, way, position)))
            heads = (z - other).square().sum(-1).sqrt()
            np.testing.assert_allclose(series.heads[at], heads, rtol=1e-4, atol=1e-5)
            wanted = sum(sum(sorted(layer.tolist())[-3:]) for layer in heads)
            assert float(series.values[at]) == pytest.approx(wanted, rel=1e-4)


def test_the_first_token_has_the_divergence_of_the_prompt():
    model = held("llava")
    found = token_divergence(model, SAMPLES, ANSWERS, progress=False)
    prompt = divergence(model, SAMPLES, zero_outliers=True, progress=False)
    for at, series in enumerate(found):
        np.testing.assert_allclose(series.heads[0], prompt.samples[at], rtol=1e-4, atol=1e-5)
        assert series.k == 2 and float(series.values[0]) == pytest.approx(
            float(np.sort(prompt.samples[at], -1)[:, -2:].sum()), rel=1e-4
        )


def test_an_answer_that_was_generated():
    model, inputs = held("llava"), SAMPLES.inputs[0]
    said = model.generate(inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    (series,) = token_divergence(model, SAMPLES.subset([0]), [said], progress=False)
    assert len(series.values) == len(said) and (series.values > 0).all()


def test_without_a_picture_it_is_0():
    text = Samples("text", ({"input_ids": torch.arange(4, 12)[None]},))
    (series,) = token_divergence(held("llava"), text, [[5, 6, 7]], progress=False)
    assert (series.values == 0).all()


@pytest.mark.parametrize(
    ("samples", "answers", "words", "says"),
    [
        (SAMPLES, ANSWERS[:1], {}, "1 answers were given for 2 samples"),
        (SAMPLES, ([], [5]), {}, "Answer 0"),
        (SAMPLES, ANSWERS, {"k": 5}, "k=5"),
        (SAMPLES, ANSWERS, {"k": 0}, "k=0"),
        (SAMPLES, ([IMAGE_TOKEN, 5], [5]), {}, "image patch"),
    ],
    ids=["count", "empty", "k", "none", "patch"],
)
def test_what_does_not_fit_is_refused(samples, answers, words, says):
    with pytest.raises(ValueError, match=says):
        token_divergence(held("llava"), samples, answers, progress=False, **words)
