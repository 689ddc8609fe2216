"""Model folders for the command line, which loads by name."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny_tokenizers


def ioi_folder(place: Path, seed: int = 0) -> Path:
    """A random Llama of 3 layers, 4 query heads and 2 key/value heads, with a tokenizer that fits the IOI prompts."""
    tokenizer = tiny_tokenizers.bpe()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def contents(place):
    """Every file of a folder, by its path in there, but for the lock."""
    return {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != ".lock"}
