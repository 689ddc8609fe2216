"""Where prompts name their answers, and attention to these places against the model's own attention."""

import numpy as np
import pytest
import torch

import tiny_tokenizers
from headlens.analyses.roles.named_words import attention_to_words, named_words
from headlens.analyses.task import Task
from headlens.hooks.model import wrap
from named_tasks import GONE, about, named_task
from tiny_models import held, tiny


def places(marked):
    return [np.flatnonzero(row).tolist() for row in marked]


def of_pieces(*pairs):
    """A model with a tokenizer, and prompts of some of its tokens, each with an answer and a foil."""
    tokenizer = tiny_tokenizers.bpe()
    ids = [tuple(map(tokenizer.convert_tokens_to_ids, pieces)) for pieces in pairs]
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    rows = [([*row[:-2]], [row[0]] * (len(row) - 2), *row[-2:]) for row in ids]
    return wrap(tiny("gpt2"), tokenizer), Task.from_pairs(tokenizer, rows)


def test_without_a_tokenizer_the_same_token_is_looked_for_up_to_end():
    found = named_words(held("llama"), named_task())
    assert places(found.answer) == [[2, 8], [1], [8], [8], [], []]
    assert places(found.foil) == [[3]] * 6


def test_a_space_in_front_makes_no_other_word():
    found = named_words(*of_pieces(("b", "a", "Ġa", "c", "Ġa", "b"), ("b", "b", "c", "c", "Ġa", "Ġb")))
    assert places(found.answer) == [[1, 2], []] and places(found.foil) == [[0], [0, 1]]


def test_another_case_counts_where_nothing_else_is_there():
    found = named_words(*of_pieces(("b", "a", "A", "Ġa", "A", "b"), ("b", "a", "c", "Ġa", "A", "b")))
    assert places(found.answer) == [[2], [1, 3]]


def test_pieces_that_are_no_text_are_only_themselves():
    tokenizer = tiny_tokenizers.bpe()
    # single bytes of longer characters, which all read as the same mark
    assert len({tokenizer.decode([tokenizer.convert_tokens_to_ids(piece)]) for piece in ("Ã", "Ä")}) == 1
    found = named_words(*of_pieces(("Ã", "Ä", "Ã", "Ä", "Ã")))
    assert places(found.answer) == [[1]] and places(found.foil) == [[0, 2]]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_attention_is_that_of_the_model_itself(name):
    model, task = held(name), named_task()
    found = attention_to_words(model, task)
    own = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attention = [
                torch.stack(model.hf(row[None, : end + 1], output_attentions=True).attentions)[:, 0, :, -1]
                for row, end in zip(task.clean_tokens, task.positions["END"], strict=True)
            ]
    finally:
        model.hf.set_attn_implementation(own)
    for word, tokens in (("to_answer", task.answers), ("to_foil", task.foils)):
        for prompt, rows in enumerate(attention):
            here = task.clean_tokens[prompt, : rows.shape[-1]] == tokens[prompt]
            want = rows[..., here].sum(-1) if here.any() else torch.full(rows.shape[:2], torch.nan)
            np.testing.assert_allclose(found[word].samples[prompt], want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["to_answer"].values, found["to_answer"].samples[:4].mean(0), rtol=1e-5)
    assert found["to_foil"].dims == ("layer", "head") and found["to_foil"].provenance["paper"] == "2211.00593"


def test_words_that_no_prompt_holds_are_missing():
    task = named_task()
    gone = about(task, torch.full((6,), GONE), task.foils)
    assert np.isnan(attention_to_words(held("llama"), gone)["to_answer"].values).all()
