"""A one-layer GPT-2 with weights set by hand: two heads that park their attention on the same delimiter.

Prompts hold evidence for one of two labels among fillers. Head 0 would read it, but the delimiter's value pushes
towards label 1: a harmful sink. Head 1 writes against the evidence, and the delimiter's value is 0: a sink that keeps
it quiet. Heads 2 and 3 do nothing.
"""

import torch
import transformers

from headlens.analyses.choice_task import ChoiceTask
from headlens.hooks.model import wrap

DELIMITER, QUERY, LABELS, EVIDENCE, FILLERS = 1, 2, (3, 4), (5, 6), range(7, 20)
WIDTH, D_HEAD, LENGTH = 32, 8, 40
HARMFUL, USEFUL = (0, 0), (0, 1)
# Directions of the residual stream: one per token below, and the label's behind them.
_LABEL, _UNUSED = 30, 29


def planted_model():
    config = transformers.GPT2Config(
        vocab_size=24,
        n_embd=WIDTH,
        n_layer=1,
        n_head=4,
        n_positions=64,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = transformers.GPT2LMHeadModel(config).eval()
    block = hf.transformer.h[0]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        hf.transformer.wte.weight[range(24), range(24)] = 1.0
        query, key, value = block.attn.c_attn.weight.split(WIDTH, 1)
        for head in (0, 1):
            first = head * D_HEAD
            block.attn.c_attn.bias[first] = 1.0  # every query asks for the delimiter
            key[DELIMITER, first] = 2.7
            sign = 1.0 if head == 0 else -0.6
            value[EVIDENCE[1], first], value[EVIDENCE[0], first] = sign, -sign
            block.attn.c_proj.weight[first, _LABEL] = 1.0
        value[DELIMITER, 0] = 0.05
        # antisymmetric, so that what a LayerNorm subtracts from all directions cancels
        for label, sign in zip(LABELS, (-1.0, 1.0), strict=True):
            hf.lm_head.weight[label, _LABEL], hf.lm_head.weight[label, _UNUSED] = sign, -sign
    return wrap(hf, name="planted")


def planted_task(n=240, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows, answers = [], []
    for prompt in range(n):
        answer = prompt % 2
        row = torch.tensor(FILLERS)[torch.randint(len(FILLERS), (LENGTH,), generator=draw)]
        row[3], row[-1] = DELIMITER, QUERY
        places = torch.randperm(LENGTH - 6, generator=draw)[: int(torch.randint(3, 12, (1,), generator=draw))] + 5
        # now and then evidence for the other label
        against = torch.rand(len(places), generator=draw) < 0.25
        row[places] = torch.where(against, EVIDENCE[1 - answer], EVIDENCE[answer])
        rows.append(row)
        answers.append(answer)
    return ChoiceTask(
        name="planted",
        tokens=torch.stack(rows),
        lengths=torch.full((n,), LENGTH),
        choices=torch.tensor([LABELS]).repeat(n, 1),
        answers=torch.tensor(answers),
    )
