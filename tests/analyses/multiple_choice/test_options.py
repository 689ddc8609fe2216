"""The options that a lettered task has, read back from its prompts."""

from dataclasses import replace

import pytest
import torch

import task_tokenizers
from headlens.analyses.multiple_choice.options import CENTRED, against_all, has_options, options_of
from headlens.analyses.tasks import lettered
from headlens.hooks.model import wrap
from lettered_models import lettered_model, lettered_task
from tiny_models import tiny
from tiny_tasks import task_of

MUTATIONS = ("none", "shuffled", "relettered")


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_letters_are_those_in_front_of_the_options(mutation):
    model, task = lettered_model("gpt2"), lettered_task(mutation=mutation)
    found = options_of(model, task)
    for prompt, (text, _) in enumerate(task.texts):
        letters = [line.split(".")[0] for line in text.split("\n")[1:-1]]
        assert found.letters[prompt].tolist() == letters
        assert model.tokenizer.batch_decode(found.tokens[prompt][:, None]) == [f" {letter}" for letter in letters]
        assert int(found.right[prompt]) == task.details["right_items"][prompt] - 1
        assert found.letter_at[prompt].tolist() == [int(task.positions[f"L{at}"][prompt]) for at in range(1, 5)]
        assert found.content_at[prompt].tolist() == [int(task.positions[f"O{at}"][prompt]) for at in range(1, 5)]
    assert found.items == 4 and found.is_right.sum(1).tolist() == [1] * 10


def test_options_of_a_subset_are_its_own():
    model, task = lettered_model("gpt2"), lettered_task()
    some = [7, 2, 5]
    assert torch.equal(options_of(model, task.subset(some)).right, options_of(model, task).right[some])


@pytest.mark.parametrize("family", task_tokenizers.FAMILIES)
def test_every_way_to_split_numbers_and_letters(family):
    """A space that is a token by itself stands in the prompt; some tokenizers have lower case alone."""
    tokenizer = task_tokenizers.FAMILIES[family]()
    model = wrap(tiny("gpt2"), tokenizer)
    for letters in ("ABC", "12") if family != "word_pieces" else ("ABC",):
        task = lettered(tokenizer, n=6, letters=letters)
        found = options_of(model, task)
        assert {*found.letters.flatten().tolist()} in ({*letters}, {*letters.lower()})
        assert torch.equal(found.tokens.gather(1, found.right[:, None])[:, 0], task.answers)


def test_the_metric_reads_all_letters():
    task = lettered_task(n=3)
    options = options_of(lettered_model("gpt2"), task)
    lettered_foils = against_all(task, options)
    logits = torch.randn(3, 900)
    assert CENTRED.tokens is not None
    tokens = CENTRED.tokens(lettered_foils)
    got = CENTRED.compute(logits.gather(1, tokens), lettered_foils, logits)
    for prompt in range(3):
        right = int(options.right[prompt])
        own = [float(logits[prompt, token]) for token in options.tokens[prompt]]
        others = [value for at, value in enumerate(own) if at != right]
        assert float(got[prompt]) == pytest.approx(own[right] - sum(others) / 3, abs=1e-5)


def test_what_has_no_options_is_refused():
    assert not has_options(task_of())
    with pytest.raises(ValueError, match=r"The task 'random' names no options .* headlens\.tasks\.lettered"):
        options_of(lettered_model("gpt2"), task_of())
    task = lettered_task()
    moved = replace(task, positions={**task.positions, "L+": task.positions["L-"]})
    with pytest.raises(ValueError, match=r"The position L\+ of task 'lettered' is not that of the answer's letter"):
        options_of(lettered_model("gpt2"), moved)
    others = replace(task, answers=task.answers * 0 + 5, answer_sets=())
    with pytest.raises(ValueError, match="Prompt 0 .* letters A, B, C, D, which are not single tokens behind it"):
        options_of(lettered_model("gpt2"), others)
