"""Planted sinks, and what VAR gives back, against a LLaVA's attention computed row by row in plain numpy."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

from headlens.analyses.vision.redistribution.planted_sinks import (
    PlantedSinks,
    divergence_of,
    free_patches,
    next_token,
    reached,
)
from plain_redistribution import moved_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import samples, together

NAME, LAYERS, SCORE = "plain_planted_sinks", (1, 2), 3.0
# the first picture token is at 2
SAMPLES = samples(n=3, length=7, start=(2, 11))
KEYS = torch.tensor([[2, 9, 17], [3, 4, 5], [6, 11, 13]])
PLANTED = PlantedSinks(KEYS, SCORE, LAYERS)


@contextmanager
def attention_by_hand(hf, score, move=0.0, non_sink=0.0, floor=0.0):
    """Scores raised at KEYS, one softmax a row, and the rows that are chosen redistributed. Yields what rows held."""
    seen, language = [], hf.model.language_model
    ids = together(*SAMPLES.inputs)["input_ids"].numpy()

    def attention(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.double().repeat_interleave(groups, 1) for each in (key, value))
        scores = query.double() @ key.transpose(2, 3) * scaling
        if module.layer_idx in LAYERS:
            for prompt, own in enumerate(KEYS.tolist()):
                scores[prompt, :, :, own] += score
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1).numpy()
        if module.layer_idx in LAYERS:
            for prompt, head, row in np.ndindex(*pattern.shape[:3]):
                image, own = {*np.flatnonzero(ids[prompt] == IMAGE_TOKEN).tolist()}, pattern[prompt, head, row]
                if row > max(image):
                    sinks = {*KEYS[prompt].tolist()}
                    new, chosen = moved_by_hand(own, sinks, image, move, non_sink, floor)
                    seen.append((chosen, own[sorted(sinks)].sum()))
                    pattern[prompt, head, row] = new
        return (torch.from_numpy(pattern) @ value).transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register(NAME, attention)
    before = language.config._attn_implementation
    language.config._attn_implementation = NAME
    try:
        with torch.no_grad():
            yield seen
    finally:
        language.config._attn_implementation = before


def log_probabilities_by_hand(**settings):
    hf = tiny("llava")
    with attention_by_hand(hf, **settings) as seen:
        logits = hf(**together(*SAMPLES.inputs)).logits[:, -1]
    return logits.double().log_softmax(-1).numpy(), seen


def test_what_planted_sinks_do():
    expected, _ = log_probabilities_by_hand(score=SCORE)
    plain, _ = log_probabilities_by_hand(score=0.0)
    assert np.abs(expected - plain).max() > 0.1
    model = held("llava")
    np.testing.assert_allclose(next_token(model, SAMPLES, PLANTED.edits, batch=2), expected, atol=3e-5)
    np.testing.assert_allclose(next_token(model, SAMPLES), plain, atol=3e-5)


@pytest.mark.parametrize(
    "given",
    [{"move": 1.0, "non_sink": 0.0, "floor": 0.0}, {"move": 0.6, "non_sink": 0.5, "floor": 0.2}],
    ids=["every row", "the paper's rule"],
)
def test_what_a_redistribution_gives_back(given):
    model = held("llava")
    expected, _ = log_probabilities_by_hand(score=SCORE, **given)

    def under(indices):
        return PLANTED.redistributed(model, indices, **given)

    found = next_token(model, SAMPLES, under, batch=2)
    np.testing.assert_allclose(found, expected, atol=3e-5)
    planted, clean = next_token(model, SAMPLES, PLANTED.edits), next_token(model, SAMPLES)
    assert np.abs(found - planted).max() > 1e-3
    recovered = 1 - divergence_of(clean, found).mean() / divergence_of(clean, planted).mean()
    by_hand, (sinks, _) = log_probabilities_by_hand(score=0.0)[0], log_probabilities_by_hand(score=SCORE)
    lost = [sum(np.exp(p) * (p - q)) for p, q in zip(by_hand, sinks, strict=True)]
    left = [sum(np.exp(p) * (p - q)) for p, q in zip(by_hand, expected, strict=True)]
    assert recovered == pytest.approx(1 - sum(left) / sum(lost), abs=1e-3)


@pytest.mark.parametrize(("non_sink", "floor"), [(0.0, 0.0), (0.5, 0.2), (0.9, 0.3)])
def test_how_much_of_what_sinks_hold_the_rule_reaches(non_sink, floor):
    found = reached(held("llava"), SAMPLES, PLANTED, non_sink=non_sink, floor=floor, batch=2)
    _, seen = log_probabilities_by_hand(score=SCORE, move=0.0, non_sink=non_sink, floor=floor)
    chosen, held_by_sinks = (np.array(each, float) for each in zip(*seen, strict=True))
    assert found.rows == pytest.approx(chosen.mean(), abs=0.02)
    assert found.on_sinks == pytest.approx(held_by_sinks.mean(), rel=1e-4)
    assert found.attention == pytest.approx((chosen * held_by_sinks).sum() / held_by_sinks.sum(), abs=0.02)
    assert (found.rows == 1) == (non_sink == 0)


def test_the_rule_reaches_less_the_more_sinks_have_captured():
    shares = [
        reached(held("llava"), SAMPLES, PlantedSinks(KEYS, score, LAYERS), non_sink=0.5, floor=0.2).attention
        for score in (0.0, 2.0, 6.0)
    ]
    assert shares == sorted(shares, reverse=True) and shares[-1] < shares[0] / 2


def test_free_patches_are_drawn_from_those_that_are_not_occupied():
    occupied = [{0, 1, 5}, {*range(13)}, set()]
    found = free_patches(held("llava"), SAMPLES, occupied, n=3, seed=1)
    assert found.shape == (3, 3)
    for row, taken in zip((found - 2).tolist(), occupied, strict=True):
        assert len({*row}) == 3 and not {*row} & taken and {*row} <= {*range(16)}
    assert sorted((found[1] - 2).tolist()) == [13, 14, 15]
    assert torch.equal(found, free_patches(held("llava"), SAMPLES, occupied, n=3, seed=1))
    assert not torch.equal(found, free_patches(held("llava"), SAMPLES, occupied, n=3, seed=2))


def test_a_divergence_is_that_of_the_definition():
    p, q = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), np.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        found = divergence_of(np.log(p), np.log(q))
    np.testing.assert_allclose(found, [0.5 * np.log(2) - 0.25 * np.log(2), np.log(2)])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda model: free_patches(model, SAMPLES, [set()]), "1 sets of patches were given for 3 samples"),
        (lambda model: free_patches(model, SAMPLES, [{*range(14)}] * 3), "Sample 0 has 2 patches"),
        (lambda model: next_token(model, SAMPLES, PLANTED.edits([0])), "planted in 1 prompts one by one, and 3 run"),
    ],
    ids=["sets", "few", "batch"],
)
def test_what_does_not_fit_is_refused(asked, says):
    with pytest.raises(ValueError, match=says):
        asked(held("llava"))
