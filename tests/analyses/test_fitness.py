"""Which models and lengths go together, against what transformers itself can run."""

from dataclasses import replace

import pytest
import torch
import transformers as hf

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.fitness import refuse_too_long, refuse_unfit
from headlens.analyses.massive import massive
from headlens.analyses.sinks import find_sinks
from headlens.hooks.model import wrap
from tiny_models import GENERATING, held
from tiny_tasks import ragged_task

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def roberta():
    """Make a model whose positions start behind its padding id."""
    return hf.RobertaForCausalLM(
        hf.RobertaConfig(vocab_size=120, **SMALL, max_position_embeddings=30, pad_token_id=1, is_decoder=True)
    )


def runs(model, length):
    """Whether transformers runs so many tokens."""
    try:
        with torch.no_grad():
            model.hf(input_ids=torch.full((1, length), 7))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("length", [64, 65, 66, 512, 513])
@pytest.mark.parametrize("name", [*GENERATING, "bert"])
def test_refused_is_what_cannot_run(name, length):
    model = held(name)
    if runs(model, length):
        refuse_too_long(model, length)
    else:
        with pytest.raises(ValueError, match=f"{length} tokens were given, and .* has 64 positions|has 512 positions"):
            refuse_too_long(model, length)


@pytest.mark.parametrize("length", [28, 29])
def test_positions_that_start_behind_the_padding_id(length):
    model = wrap(roberta().eval())
    if runs(model, length):
        refuse_too_long(model, length)
    else:
        with pytest.raises(ValueError, match="28 positions"):
            refuse_too_long(model, length)


@pytest.mark.parametrize("look", [head_stats, find_sinks, massive])
def test_what_is_only_looked_at_is_refused_too(look):
    model, tokens = held("gpt2"), torch.full((2, 100), 7)
    with pytest.raises(ValueError, match="Prompts of 100 tokens were given, and tiny-gpt2 .* has 64 positions"):
        look(model, tokens)


def test_padding_needs_no_position():
    model, tokens, mask = held("gpt2"), torch.full((2, 70), 7), torch.ones(2, 70, dtype=torch.long)
    mask[:, :6] = 0
    assert head_stats(model, {"input_ids": tokens, "attention_mask": mask}, "self", progress=False)
    mask[1, 5] = 1
    with pytest.raises(ValueError, match="65 tokens"):
        head_stats(model, {"input_ids": tokens, "attention_mask": mask}, "self", progress=False)


def test_tasks_of_either_kind_are_held_against_the_model():
    pairs = ragged_task()
    choices = ChoiceTask(
        "mine",
        tokens=pairs.clean_tokens,
        lengths=pairs.lengths,
        choices=torch.tensor([[4, 5]] * 6),
        answers=pairs.answers * 0,
    )
    config = hf.GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_positions=11)
    small = wrap(hf.GPT2LMHeadModel(config).eval())
    for task in (pairs, choices):
        refuse_unfit(held("llama"), task)
        for name in ("bert", "t5"):
            with pytest.raises(ValueError, match="is not a causal language model"):
                refuse_unfit(held(name), task)
        with pytest.raises(ValueError, match="12 tokens .* 11 positions"):
            refuse_unfit(small, task)
    with pytest.raises(ValueError, match="vocabulary"):
        refuse_unfit(held("llama"), replace(choices, choices=choices.choices + 200))
