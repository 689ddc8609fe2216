"""Tasks of random tokens for the tiny models, and what TransformerLens's patching makes of them."""

import torch

from headlens.analyses.task import Task
from headlens.hooks.bridge import to_bridge
from tiny_models import inputs_for


def task_of(name="llama", prompts=5, length=9, start=4):
    """Random prompts that differ at `start`, all of one length."""
    clean = inputs_for(name, batch=prompts, length=length)["input_ids"]
    corrupted = clean.clone()
    corrupted[:, start] = (clean[:, start] + 31) % 80 + 4
    numbers = torch.arange(prompts)
    return Task("random", clean, corrupted, torch.full((prompts,), length), numbers + 5, numbers + 50)


def ragged_task():
    """Prompts of three lengths that first differ at different positions, and a pair that does not differ."""
    whole = task_of(prompts=6, length=12, start=3)
    lengths = torch.tensor([12, 7, 12, 9, 7, 12])
    clean, corrupted = whole.clean_tokens.clone(), whole.corrupted_tokens.clone()
    corrupted[2] = clean[2]
    corrupted[5, 3], corrupted[5, 6] = clean[5, 3], clean[5, 6] + 1
    for row, length in enumerate(lengths):
        clean[row, length:] = corrupted[row, length:] = 1
    return Task("ragged", clean, corrupted, lengths, whole.answers, whole.foils)


def peer_effects(model, task, direction, function):
    """How far the mean metric moves, in logits, by TransformerLens's patching: one whole forward per cell."""
    from transformer_lens import patching as peer

    bridge = to_bridge(model)
    rows = torch.arange(len(task))

    def metric(logits):
        last = logits[:, -1]
        return (last[rows, task.answers] - last[rows, task.foils]).mean()

    base, source = task.corrupted_tokens, task.clean_tokens
    if direction == "noising":
        base, source = source, base
    with torch.no_grad():
        _, cache = bridge.run_with_cache(source)
        unpatched = metric(bridge(base))
        patched = getattr(peer, function)(bridge, base, cache, metric)
    return (patched - unpatched).numpy() * (1 if direction == "denoising" else -1)
