"""Guidance by the picture against whole runs without a cache."""

import math

import pytest
import torch
from transformers import LogitsProcessorList

from headlens.analyses.vision.relatives.guidance import guidance, guided_logits
from headlens.analyses.vision.relatives.pai import pai
from headlens.hooks.edits import Call, Gate
from tiny_models import IMAGE_TOKEN, held
from tiny_samples import sample, together

INPUTS = together(*(sample(9, seed=seed, start=(2, 7)) for seed in (1, 2, 3)))
PROMPT, END = INPUTS["input_ids"].shape[1], 3


def generated(model, inputs=INPUTS, steps=7, **settings):
    return model.hf.generate(
        **inputs,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )


def allowed(logits):
    """Log-probabilities where the end of a text is forbidden, so that all answers are as long."""
    return logits.index_fill(1, torch.tensor([END]), -torch.inf).log_softmax(-1)


def blind(model, sequences):
    """The last log-probabilities of the same sequences without image tokens, by a run of its own."""
    text = sequences[sequences != IMAGE_TOKEN].reshape(len(sequences), -1)
    with torch.no_grad():
        return model(text)[:, -1].log_softmax(-1)


def test_the_formula_by_hand():
    logits, without = (torch.randn(2, 9, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = guided_logits(logits, without, 1.7, 0.3)
    for row in range(2):
        said, other = ([math.exp(value) for value in each[row].tolist()] for each in (logits, without))
        seen, unseen = ([value / sum(each) for value in each] for each in (said, other))
        for token in range(9):
            expected = 1.7 * math.log(seen[token]) - 0.7 * math.log(unseen[token])
            expected = expected if seen[token] >= 0.3 * max(seen) else -math.inf
            assert float(found[row, token]) == pytest.approx(expected, abs=1e-5)
    assert (found == -torch.inf).any() and found.isfinite().any(-1).all()


def test_gamma_of_1_is_the_model_itself():
    model = held("llava")
    with model.edited(*[]):
        plain = generated(model)
        guided = generated(model, logits_processor=[guidance(model, INPUTS, 1.0, cut=0.0)])
        cut = generated(model, logits_processor=[guidance(model, INPUTS, 1.0)])
    assert torch.equal(plain.sequences, guided.sequences) and torch.equal(plain.sequences, cut.sequences)
    for own, found, bounded in zip(plain.logits, guided.scores, cut.scores, strict=True):
        expected = allowed(own)
        assert torch.equal(found, expected)
        least = expected.amax(-1, keepdim=True) + math.log(0.1)
        assert torch.equal(bounded, expected.masked_fill(expected < least, -torch.inf))


def test_every_step_is_two_whole_runs():
    model, gamma = held("llava"), 2.5
    with model.edited(*[]):
        found = generated(model, logits_processor=[guidance(model, INPUTS, gamma, cut=0.0)])
        plain = generated(model)
    assert not torch.equal(found.sequences, plain.sequences)
    for step, scores in enumerate(found.scores):
        sequences = found.sequences[:, : PROMPT + step]
        with torch.no_grad():
            said = model({**INPUTS, "input_ids": sequences})[:, -1]
        other = blind(model, sequences)
        expected = other + gamma * (allowed(said) - other)
        torch.testing.assert_close(scores, expected, atol=3e-4, rtol=0)
        assert torch.equal(found.sequences[:, PROMPT + step], scores.argmax(-1))


def test_edits_of_attention_are_off_without_the_picture_and_on_with_it():
    model, gamma = held("llava"), 2.0
    edits = [pai(model, 0.8, layers=[0, 1, 2]), Gate("L1H2", 3.0)]
    with model.edited(*edits):
        guided = generated(model, logits_processor=[guidance(model, INPUTS, gamma, cut=0.0)])
    since = pai(model, 0.8, layers=[0, 1, 2], since=PROMPT - 1)
    for step, scores in enumerate(guided.scores):
        sequences = guided.sequences[:, : PROMPT + step]
        with torch.no_grad(), model.edited(since, Gate("L1H2", 3.0)):
            said = model({**INPUTS, "input_ids": sequences})[:, -1]
        expected = gamma * allowed(said) + (1 - gamma) * blind(model, sequences)
        torch.testing.assert_close(scores, expected, atol=3e-4, rtol=0)


def test_the_outer_run_and_the_outer_hooks_do_not_notice():
    model, seen = held("llava"), []

    def note(scores, hook):
        seen.append((hook.query_start, tuple(scores.shape)))

    for processors in ([], [guidance(model, INPUTS, 1.0, cut=0.0)]):
        with model.edited(Call("blocks.1.attn.hook_attn_scores", note)):
            generated(model, steps=3, logits_processor=LogitsProcessorList(processors))
    assert seen[:3] == seen[3:] and [start for start, _ in seen[:3]] == [0, PROMPT, PROMPT + 1]


def test_each_generation_starts_anew():
    model, found = held("llava"), guidance(held("llava"), INPUTS, 2.0)
    with model.edited(*[]):
        once, twice = (generated(model, logits_processor=[found]) for _ in range(2))
    assert torch.equal(once.sequences, twice.sequences)


def test_what_cannot_be_is_refused():
    model, inputs = held("llava"), INPUTS
    for given, words in (({"gamma": float("inf")}, "gamma=inf"), ({"cut": 1.5}, "cut=1.5")):
        with pytest.raises(ValueError, match=words):
            guidance(model, inputs, **given)
    with pytest.raises(ValueError, match="made for 3 prompts, and 6 are generated"):
        model.generate(inputs, logits_processor=[guidance(model, inputs)], num_beams=2, max_new_tokens=3)
    with pytest.raises(ValueError, match="is asked about 25"):
        other = together(*(sample(9, seed=seed) for seed in (1, 2, 3)))
        model.generate(other, logits_processor=[guidance(model, inputs)], max_new_tokens=3)
    uneven = {"input_ids": torch.cat([torch.full((2, 4), IMAGE_TOKEN), torch.full((2, 5), 8)], 1)}
    uneven["input_ids"][1, 1] = 9
    with pytest.raises(ValueError, match=r"have \[5, 6\] tokens"):
        guidance(model, uneven)
    mask = torch.ones_like(inputs["input_ids"]).index_fill(1, torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="padding"):
        guidance(model, {**inputs, "attention_mask": mask})
