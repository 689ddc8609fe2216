"""Attention to options, and what heads say for each letter, against the model's own forward."""

import numpy as np
import pytest
import torch

from headlens.analyses.multiple_choice.letter_attention import letter_attention
from headlens.analyses.multiple_choice.output_nodes import output_nodes
from lettered_models import lettered_model, lettered_task

HEADS = ["L2H1", "L0H3", "L1H0"]
SHAPE = [(2, 1), (0, 3), (1, 0)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_attention_is_that_of_the_model_itself(name):
    model, task = lettered_model(name), lettered_task()
    found = letter_attention(model, task, HEADS)
    own = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        for prompt, end in enumerate(task.positions["END"].tolist()):
            with torch.no_grad():
                whole = model.hf(task.clean_tokens[prompt : prompt + 1, : end + 1], output_attentions=True).attentions
            for at, (layer, head) in enumerate(SHAPE):
                row = whole[layer][0, head, end]
                want = {
                    "letters": [row[int(task.positions[f"L{item}"][prompt])] for item in range(1, 5)],
                    "contents": [row[int(task.positions[f"O{item}"][prompt])] for item in range(1, 5)],
                    "last": row[int(task.positions["O4"][prompt]) + 1 :].sum(),
                }
                for key, values in want.items():
                    np.testing.assert_allclose(getattr(found, key)[prompt, at], values, rtol=0, atol=1e-5)
    finally:
        model.hf.set_attn_implementation(own)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_a_head_says_for_the_right_letter_is_its_direct_effect(name):
    model, task = lettered_model(name), lettered_task()
    found = letter_attention(model, task, HEADS)
    direct = output_nodes(model, task, total=0).headmap()
    for at, (layer, head) in enumerate(SHAPE):
        right = found.options.of_right(found.said)[:, at]
        np.testing.assert_allclose(right, direct.samples[:, layer, head], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.said.sum(2), 0, atol=1e-4)


def test_the_stream_before_a_layer_is_what_was_written_before_it():
    """Letter by letter, from one layer to the next: the heads and the MLP of the layer make the difference."""
    model, task = lettered_model("llama"), lettered_task()
    found = letter_attention(model, task, ["L1H0", "L2H0"])
    nodes = output_nodes(model, task, total=0)
    layer = [nodes.nodes.index(node) for node in ("L1H0", "L1H1", "L1H2", "L1H3", "MLP1")]
    grown = found.options.of_right(found.stream[:, 1] - found.stream[:, 0])
    np.testing.assert_allclose(grown, nodes.direct[:, layer].sum(1), rtol=0, atol=1e-4)


def test_right_is_what_the_models_letters_say():
    model, task = lettered_model("gpt2"), lettered_task()
    found = letter_attention(model, task, HEADS)
    ends, rows = task.positions["END"], torch.arange(len(task))
    with torch.no_grad():
        logits = model.hf(task.clean_tokens).logits[rows, ends].gather(1, found.options.tokens)
    np.testing.assert_allclose(found.logits, logits, rtol=0, atol=1e-4)
    assert found.right.tolist() == (logits.argmax(1) == found.options.right).tolist()


def test_no_heads_and_unknown_heads_are_refused():
    with pytest.raises(ValueError, match=r"No heads were given; name some"):
        letter_attention(lettered_model("gpt2"), lettered_task(), [])
    with pytest.raises(ValueError, match="Head L3H0 does not exist"):
        letter_attention(lettered_model("gpt2"), lettered_task(), ["L3H0"])
