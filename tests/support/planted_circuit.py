"""A two-layer GPT-2 with weights set by hand, whose circuit is known: a previous-token head feeds an induction head.

Prompts are "... A B ... A" and the answer is B. L0H0 writes each token's predecessor beside it, and L1H1 looks from the
last A for a position whose predecessor was A and copies what stands there. L0H1 and L1H0 copy tokens too, to where
nobody reads them. All other heads, and the MLPs, are 0.
"""

import torch
import transformers

from headlens.analyses.task import Task
from headlens.hooks.model import wrap

VOCABULARY, LENGTH, HEADS, D_HEAD = 10, 9, 3, 18
WIDTH = HEADS * D_HEAD
HEADS_INSIDE = {"L0H0", "L1H1"}
# What depends on the tokens; attention to the position before, and to oneself, is the same in every prompt.
EDGES = {
    ("embed", "L0KV0.v"),
    ("L0H0", "L1KV1.k"),
    ("embed", "L1H1.q"),
    ("embed", "L1KV1.v"),
    ("L1H1", "logits"),
}
# Directions of the residual stream, and the large constant that keeps the LayerNorms from mixing them.
_TOKEN, _POSITION, _BEFORE, _UNREAD, _ANSWER = (slice(at, at + VOCABULARY) for at in range(0, 50, 10))
_CONSTANT, _SIZE = (50, 51), 20.0
# A LayerNorm divides by nearly this.
_SPREAD = _SIZE * (2 / WIDTH) ** 0.5


def planted_model():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=2,
        n_head=HEADS,
        n_positions=VOCABULARY,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = transformers.GPT2LMHeadModel(config).eval()
    eye, shift = torch.eye(VOCABULARY), torch.eye(VOCABULARY).roll(1, 1)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        hf.transformer.wte.weight[:, _TOKEN] = eye
        hf.transformer.wpe.weight[:, _POSITION] = eye
        hf.transformer.wte.weight[:, _CONSTANT] = torch.tensor([_SIZE, -_SIZE])
        first, second = (block.attn for block in hf.transformer.h)
        _head(first, 0, query=(_POSITION, eye), key=(_POSITION, shift), value=_TOKEN, out=_BEFORE)
        _head(first, 1, query=(_POSITION, eye), key=(_POSITION, eye), value=_TOKEN, out=_UNREAD)
        _head(second, 0, query=(_TOKEN, eye), key=(_TOKEN, eye), value=_UNREAD, out=_UNREAD)
        _head(second, 1, query=(_TOKEN, eye), key=(_BEFORE, eye), value=_TOKEN, out=_ANSWER, sharpness=4.0)
        hf.lm_head.weight[:, _ANSWER] = 5 * _SPREAD * eye
    return wrap(hf, name="planted")


def _head(attention, head, *, query, key, value, out, sharpness=8.0):
    """Attend where query and key meet, and copy one set of directions to another, whole."""
    own = slice(head * D_HEAD, head * D_HEAD + VOCABULARY)
    for block, (directions, weights) in zip(attention.c_attn.weight.split(WIDTH, 1), (query, key), strict=False):
        block[directions, own] = weights * _SPREAD * (sharpness * D_HEAD**0.5) ** 0.5
    attention.c_attn.weight.split(WIDTH, 1)[2][value, own] = _SPREAD * torch.eye(VOCABULARY)
    attention.c_proj.weight[own, out] = torch.eye(VOCABULARY)


def planted_task(n=24, seed=0):
    """Pairs in which everything differs: the repeated token, what follows it, and where they stand."""
    draw = torch.Generator().manual_seed(seed)
    clean, corrupted = _prompts(n, draw), _prompts(n, draw)
    rows = []
    for (tokens, answer), (other, foil) in zip(clean, corrupted, strict=True):
        if answer != foil:
            rows.append((tokens, other, answer, foil))
    tokens, others, answers, foils = (torch.tensor(each) for each in zip(*rows, strict=True))
    lengths = torch.full((len(rows),), LENGTH)
    return Task("planted", tokens, others, lengths, answers, foils)


def _prompts(n, draw):
    """Different tokens in a row, then the one at place 1 to LENGTH - 3 again: its successor is the answer."""
    found = []
    for _ in range(n):
        row = torch.randperm(VOCABULARY, generator=draw)[: LENGTH - 1].tolist()
        at = 2 + int(torch.randint(LENGTH - 5, (1,), generator=draw))
        found.append(([*row, row[at]], row[at + 1]))
    return found
