"""How heads attend where random tokens come again: the previous token, copies, and what came after copies.

No task and no text is needed, and nothing but the repetition can be attended to for a reason (2209.11895; as a test of
heads also in 2407.15891).
"""

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.fitness import refuse_too_long
from headlens.analyses.headmap import HeadMap
from headlens.analyses.tokens import lead_in, tokenizer_of, vocabulary_of
from headlens.hooks.model import Model

# The statistic and where it is defined.
PAPERS = {"previous_token": "2211.00593", "duplicate": "2211.00593", "induction": "2209.11895"}


def repetition(
    model: Model, length: int = 50, sequences: int = 4, seed: int = 0, progress: bool = True
) -> dict[str, HeadMap]:
    """The attention statistics "previous_token", "duplicate" and "induction" (`head_stats`) on random tokens.

    Args:
        length: how many random tokens, all different, are repeated once, behind the tokenizer's BOS if it has one.
        sequences: how many such prompts; the samples of the maps.

    Returns:
        A HeadMap by statistic, shares of a row's attention, 0 to 1. "duplicate" and "induction" are means over the
        repetition alone, where there are copies.

    Raises:
        ValueError: for a length or number below 1, more different tokens than the vocabulary has, or more positions
            than the model.
    """
    tokens = repeated_tokens(model, length, sequences, seed)
    found = head_stats(model, tokens, [*PAPERS], progress=progress)
    made = {"length": length, "sequences": sequences, "seed": seed}
    return {
        name: replace(each, provenance={**each.provenance, **made, "paper": PAPERS[name]})
        for name, each in found.items()
    }


def repeated_tokens(model: Model, length: int, sequences: int, seed: int) -> Int64[Tensor, "sequence pos"]:
    """Sequences of different random tokens, each twice, none of them special; equal seeds give equal tokens."""
    if length < 1 or sequences < 1:
        raise ValueError(f"length={length} and sequences={sequences} were given; expected at least 1 of each.")
    size, lead, special = vocabulary_of(model), [], set()
    if model.tokenizer is not None:
        tokenizer = tokenizer_of(model)
        # rows of an embedding that no token has were never trained
        size, lead, special = min(size, len(tokenizer)), lead_in(tokenizer, None), {*tokenizer.all_special_ids}
    ordinary = torch.tensor([token for token in range(size) if token not in special])
    if len(ordinary) < length:
        raise ValueError(
            f"length={length} different tokens were asked for, and the vocabulary of {model.name!r} has "
            f"{len(ordinary)}; ask for fewer."
        )
    refuse_too_long(model, len(lead) + 2 * length)
    draw = torch.Generator().manual_seed(seed)
    rows = [ordinary[torch.randperm(len(ordinary), generator=draw)[:length]] for _ in range(sequences)]
    return torch.stack([torch.cat([torch.tensor(lead, dtype=torch.int64), row, row]) for row in rows])
