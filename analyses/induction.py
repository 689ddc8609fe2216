"""Induction (arXiv 2209.11895): random tokens that come again; what followed them before?

All tokens are random and different, but at the end two runs of four come again. One of them ended in A and was followed
by B, the other ended in C and was followed by D:

    clean      .. P Q R C D .. .. X Y Z A  B .. .. P Q R C X Y Z A   -> B
    corrupted  .. P Q R C D .. .. X Y Z A' B .. .. P Q R C X Y Z A      A' stands nowhere else

The corrupted prompt lacks the earlier A and nothing else. So no successor of A can be looked up, while B and D are
where they were, once each: that B is in the prompt cannot explain a difference between the two runs. The foil D has
all that B has, a place behind a run that came again, but behind the wrong one.
"""

from collections.abc import Sequence
from itertools import islice, permutations
from random import Random
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, deal, turns
from headlens.analyses.tokens import lead_in, tokenizer_of
from headlens.hooks.model import Model

RUN = 4
# The tokens before the runs come again fall into three parts; a layout says in which A and C stand.
PARTS = {"near": 1, "middle": 2, "far": 3}
LAYOUTS = {f"A {first}, C {second}": (first, second) for first, second in permutations(PARTS, 2)}
# A run, the token that follows it, and one more.
SHORTEST = 2 * RUN + len(PARTS) * (RUN + 2)


def induction(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    length: int = 32,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Induction (arXiv 2209.11895): random tokens that come again; what followed them before?

    n prompts of `length` random tokens (and the BOS, if any), such as "..P Q R C D .. X Y Z A B .. P Q R C X Y Z A"
    with the answer B and the foil D; the tokens shown come as often as shown, all others once. The corrupted prompt
    has another random token in place of the earlier A, so that nothing says what follows A; all else stays, B and D
    among it.

    Positions A1, B1, C1, D1 (the earlier A, B, C, D), C2 and END (the later C and A). `templates` are layouts, how
    far back A and C stood ("A near, C far", ...; None: all six), and take turns. The tokens are those that spell
    ASCII letters, with or without a space in front. `prepend_bos` None follows the tokenizer. Equal arguments give
    equal tasks.

    The paper repeats whole sequences; with two runs, what is copied is told from what merely came again.
    """
    templates = chosen("induction", "template", templates, LAYOUTS)
    if length < SHORTEST:
        raise ValueError(f"length={length} tokens were asked for; an induction prompt needs {SHORTEST} or more.")
    tokenizer = tokenizer_of(model)
    words = _ordinary_tokens(tokenizer)
    different = length - 2 * RUN + 1
    if len(words) < different:
        raise ValueError(
            f"Only {len(words)} of this tokenizer's {len(tokenizer)} tokens spell letters, and length={length} needs "
            f"{different} different ones; ask for shorter prompts."
        )
    lead, rng = lead_in(tokenizer, prepend_bos), Random(seed)
    pairs = []
    for template, _ in turns(n, templates):
        *body, stranger = islice(deal(rng, words), different)
        a, c = (_place(len(body), part) for part in LAYOUTS[template])
        clean = [*lead, *body, *_run_to(body, c), *_run_to(body, a)]
        positions = {"A1": a, "B1": a + 1, "C1": c, "D1": c + 1, "C2": length - 1 - RUN}
        positions = {name: len(lead) + position for name, position in positions.items()}
        corrupted = clean.copy()
        corrupted[positions["A1"]] = stranger
        pairs.append(Pair(clean, corrupted, body[a + 1], body[c + 1], positions, template))
    details = {"n": n, "seed": seed, "length": length, "templates": [*templates], "prepend_bos": bool(lead)}
    return Task.from_pairs(model, pairs, name="induction", details=details)


def _place(size: int, part: str) -> int:
    """Where the run in this part of the prompt's beginning ends: two tokens before the part does."""
    return size - (PARTS[part] - 1) * (size // len(PARTS)) - 3


def _run_to(tokens: list[int], end: int) -> list[int]:
    return tokens[end - RUN + 1 : end + 1]


def _ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that spell ASCII letters, maybe behind the mark for a space; neither special nor added ones."""
    added: dict[str, int] = cast(Any, tokenizer).get_added_vocab()
    unusual = {*tokenizer.all_special_ids, *added.values()}
    pieces = {token: piece.lstrip("Ġ▁") for piece, token in tokenizer.get_vocab().items() if token not in unusual}
    return sorted(token for token, piece in pieces.items() if piece.isascii() and piece.isalpha())
