"""PAINT against attention computed by hand, with sets from transformers' own eager vision tower."""

import pytest
import torch

from headlens.analyses.vision.relatives.imbalanced import imbalanced
from headlens.hooks.edits import Call
from plain_image_scores import rewritten_by_hand
from plain_patch_sets import looked, sets_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import sample, together

ONE = together(sample(9, seed=1), sample(9, seed=2), sample(9, seed=6))
TWO_PICTURES = together(*(sample(7, pictures=2, seed=seed, start=(2, 11)) for seed in (4, 5)))


@pytest.fixture(scope="module")
def plain_model():
    """The same weights, which no part of headlens has held."""
    return tiny("llava")


def strengths_by_hand(hf, inputs, alpha, beta):
    """[prompt, pos], picture by picture."""
    ids = inputs["input_ids"]
    strength, places = torch.zeros(ids.shape), [tuple(place) for place in (ids == IMAGE_TOKEN).nonzero().tolist()]
    for picture, (first, last) in enumerate(zip(*looked(hf, inputs["pixel_values"]), strict=True)):
        local, summary = sets_by_hand(first, last)
        for patch, place in enumerate(places[16 * picture : 16 * picture + 16]):
            strength[place] = alpha if patch in local else beta if patch in summary else 0.0
    return strength


def raising(strength, rows=(-1,)):
    def rewrite(scores, layer):
        out = scores.clone()
        for row in rows:
            own = scores[:, :, row]
            seen = own.masked_fill(own == -torch.inf, 0)
            out[:, :, row] = own + strength[:, None, : own.shape[-1]] * seen.abs()
        return out

    return rewrite


@pytest.mark.parametrize("inputs", [ONE, TWO_PICTURES], ids=["batch of 3", "two pictures each"])
def test_logits_are_those_of_scores_raised_by_hand(plain_model, inputs):
    model, strength = held("llava"), strengths_by_hand(plain_model, inputs, 0.9, 0.5)
    assert {0.0, 0.5, 0.9} == {round(value, 3) for value in strength.unique().tolist()}
    with rewritten_by_hand(plain_model, raising(strength), [1, 2]):
        expected = plain_model(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(*imbalanced(model, 0.9, 0.5, layers=[1, 2])):
            found = model(inputs)
    assert (expected - plain)[:, -1].abs().amax(-1).min() > 0.02
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_no_strength_changes_no_bit_and_other_rows_never_do():
    model = held("llava")
    looks = [
        Call("vision.blocks.0.attn.hook_pattern", lambda pattern, hook: None),
        Call("vision.blocks.1.attn.hook_pattern", lambda pattern, hook: None),
        Call("blocks.2.attn.hook_attn_scores", lambda scores, hook: None),
    ]
    with torch.no_grad(), model.edited(*looks):
        plain = model(ONE)
    with torch.no_grad(), model.edited(*imbalanced(model, 0.0, 0.0)):
        assert torch.equal(model(ONE), plain)
    with torch.no_grad(), model.edited(*imbalanced(model)):
        found = model(ONE)
    assert torch.equal(found[:, :-1], plain[:, :-1]) and not torch.equal(found[:, -1], plain[:, -1])


def test_cached_steps_are_one_run_by_hand(plain_model):
    model, last = held("llava"), TWO_PICTURES["input_ids"].shape[1] - 1
    with model.edited(*imbalanced(model, layers=[0, 1, 2])):
        steps = model.hf.generate(
            **TWO_PICTURES,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    longer = {**TWO_PICTURES, "input_ids": steps.sequences[:, :-1]}
    strength = strengths_by_hand(plain_model, longer, 0.7, 0.3)
    with rewritten_by_hand(plain_model, raising(strength, range(last, last + 6)), [0, 1, 2]):
        expected = plain_model(**longer).logits[:, last:]
    torch.testing.assert_close(torch.stack(steps.logits, 1), expected, atol=3e-5, rtol=0)


def test_beams_see_the_picture_of_their_prompt():
    model = held("llava")
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": 3, "num_return_sequences": 1}
    with model.edited(*imbalanced(model, layers=[0, 1, 2])):
        several = model.generate(ONE, **settings)
        alone = [model.generate({name: each[at : at + 1] for name, each in ONE.items()}, **settings) for at in range(3)]
    assert torch.equal(several, torch.cat(alone))
    assert not torch.equal(several, model.generate(ONE, **settings))


def test_no_run_keeps_anything_of_the_one_before():
    model, text = held("llava"), {"input_ids": ONE["input_ids"][:, 16:]}
    alone = []
    for inputs in (ONE, TWO_PICTURES):
        with torch.no_grad(), model.edited(*imbalanced(model, layers=[1])):
            alone.append(model(inputs))
    with torch.no_grad(), model.edited(*imbalanced(model, layers=[1])):
        first, between, second = model(ONE), model(text), model(TWO_PICTURES)
    assert torch.equal(first, alone[0]) and torch.equal(second, alone[1])
    torch.testing.assert_close(between, model(text), atol=1e-5, rtol=0)


def test_what_cannot_be_is_refused():
    model = held("llava")
    for given, words in (({"beta": float("inf")}, "beta=inf"), ({"share": -0.1}, "share=-0.1")):
        with pytest.raises(ValueError, match=words):
            imbalanced(model, **given)
    ids = {"input_ids": ONE["input_ids"]}
    with pytest.raises(ValueError, match="no picture was seen"), model.edited(*imbalanced(model)):
        model(ONE)
        # image tokens whose pictures nobody gave, after a run that had some
        model(ids)
