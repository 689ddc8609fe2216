"""Tiny models with a tokenizer that knows the lettered task's words."""

from functools import cache

import torch
import transformers as hf
from torch import nn

import task_tokenizers
from headlens.analyses.task import Task
from headlens.analyses.tasks import lettered
from headlens.hooks.model import Model, wrap

_CONFIGS = {
    "gpt2": lambda **kwargs: hf.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256, **kwargs),
    "llama": lambda **kwargs: hf.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        **kwargs,
    ),
    "gemma2": lambda **kwargs: hf.Gemma2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        head_dim=8,
        sliding_window=30,
        **kwargs,
    ),
}


def lettered_weights(name: str) -> nn.Module:
    """A random model with norms and biases that are not 1 and 0."""
    hf.logging.set_verbosity_error()
    torch.manual_seed(3)
    size = len(task_tokenizers.two_digits())
    model = hf.AutoModelForCausalLM.from_config(_CONFIGS[name](vocab_size=size, bos_token_id=0, eos_token_id=0))
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.25)
        else:
            with torch.no_grad():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@cache
def lettered_model(name: str) -> Model:
    return wrap(lettered_weights(name), task_tokenizers.two_digits(), name=f"lettered-{name}")


@cache
def lettered_task(n: int = 10, seed: int = 2, mutation: str = "none", letters: str = "ABCD") -> Task:
    """Short prompts, without examples."""
    made = {"shots": 0, "mutation": mutation, "letters": letters}
    return lettered(task_tokenizers.two_digits(), n=n, seed=seed, **made)
