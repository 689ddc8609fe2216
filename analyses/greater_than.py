"""Greater-than (arXiv 2305.00586): what began in 1732 ended in a year above 1732.

Clean: "The war lasted from the year 1732 to the year 17" -> 33 or above. In the corrupted prompt the war begins in
1701, so that every year will do. Tokenizers split years differently, two digits or one to a token, so the right and
the wrong tokens are worked out from the tokenizer. Templates, events and centuries: data/tasks/greater_than.toml.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, deal, read, render, turns, words_that_fit
from headlens.analyses.tokens import check_twins, continuation, encode, encode_all, lead_in, span_of, tokenizer_of
from headlens.hooks.model import Model

# End years as in the paper; the start years are among them, 01 is the corrupted one.
YEARS = range(2, 99)
CORRUPTED = "01"


class Start(NamedTuple):
    """A year in which something begins, and the tokens that end it rightly and wrongly.

    `ends` are the first new token of each end year, in the order of years, those of unclear tokens left out.
    """

    century: str
    year: int
    ends: Mapping[int, int]

    @property
    def above(self) -> list[int]:
        return [year for year in self.ends if year > self.year]

    @property
    def upto(self) -> list[int]:
        return [year for year in self.ends if year <= self.year]


def greater_than(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Greater-than (arXiv 2305.00586): what began in 1732 ended in a year above 1732.

    n prompts such as "The war lasted from the year 1732 to the year 17". The corrupted prompt has 1701 as the start.
    For each end year from 02 to 98 the first token behind the prompt counts: if all years that share it are above the
    start (32), it is in `answer_sets`; if all are at or below, in `foil_sets`; else in neither. So a tokenizer of
    single digits leaves the tens digit of the start out. `answers` are the tokens of the nearest year above that has
    one in the set, `foils` those of the nearest at or below. Start years leave both sets something. The metric that
    suits is "prob_diff".

    Positions Y1 and YY, the first and the last token of the start's last two digits (the same where one token holds
    both), and END. `templates` are ids from data/tasks/greater_than.toml (None: all), and take turns. `prepend_bos`
    None follows the tokenizer. No prompt comes twice before all have come. Equal arguments give equal tasks.

    The paper has one template, and a word list of its own.
    """
    texts = read("greater_than")["templates"]
    templates = chosen("greater-than", "template", templates, texts)
    tokenizer = tokenizer_of(model)
    events = _fitting_events(tokenizer, [texts[template] for template in templates])
    rng = Random(seed)
    decks: dict[str, Iterator[tuple[str, Start]]] = {}
    for template in templates:
        starts = _starts(tokenizer, texts[template], events[0])
        decks[template] = deal(rng, [(event, start) for event in events for start in starts])
    pairs = []
    for template, _ in turns(n, templates):
        event, start = next(decks[template])
        pairs.append(_pair(tokenizer, template, texts[template], event, start, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return Task.from_pairs(model, pairs, name="greater_than", details=details, metric="prob_diff")


def _fitting_events(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[str, ...]:
    prompts = [text.split(" {event}")[0].format(century="17", start="32") for text in texts]
    return words_that_fit(tokenizer, "greater-than events", read("greater_than")["events"], prompts, needed=1)


def _starts(tokenizer: PreTrainedTokenizerBase, text: str, event: str) -> list[Start]:
    """The start years that leave both sets something, and whose last two digits have tokens of their own, like 01."""
    starts = []
    for century in read("greater_than")["centuries"]:
        stem = text.split("{start}")[0].format(event=event, century=century)
        tokens = encode(tokenizer, stem)
        like = len(encode(tokenizer, stem + CORRUPTED))
        ends = _first_tokens(tokenizer, text.format(event=event, century=century, start=CORRUPTED))
        begun = encode_all(tokenizer, [f"{stem}{year:02}" for year in YEARS])
        for year, begins in zip(YEARS, begun, strict=True):
            own = len(begins) == like > len(tokens) and begins[: len(tokens)] == tokens
            start = Start(century, year, _clear(ends, year))
            if own and start.above and start.upto:
                starts.append(start)
    if not starts:
        raise ValueError(
            f"This tokenizer ({len(tokenizer)} tokens) has no tokens for the last two digits of a year, such as 32 in "
            "1732; build a task from your own prompts with Task.from_pairs."
        )
    return starts


def _first_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> dict[int, int]:
    """The first token that each end year adds to the prompt; years that change the prompt's own tokens are left out."""
    before = encode(tokenizer, prompt)
    wholes = encode_all(tokenizer, [f"{prompt}{year:02}" for year in YEARS])
    return {
        year: whole[len(before)]
        for year, whole in zip(YEARS, wholes, strict=True)
        if len(whole) > len(before)
        and whole[: len(before)] == before
        and whole[len(before)] not in tokenizer.all_special_ids
    }


def _clear(ends: Mapping[int, int], start: int) -> dict[int, int]:
    """The end years whose token is not shared by years on both sides of the start."""
    above = {token for year, token in ends.items() if year > start}
    upto = {token for year, token in ends.items() if year <= start}
    return {year: token for year, token in ends.items() if token not in above & upto}


def _pair(
    tokenizer: PreTrainedTokenizerBase, template: str, text: str, event: str, start: Start, prepend_bos: bool | None
) -> Pair:
    slots = {"event": event, "century": start.century, "start": f"{start.year:02}"}
    clean, spans = render(text, slots)
    corrupted, _ = render(text, {**slots, "start": CORRUPTED})
    span = span_of(tokenizer, clean, *spans["start"])
    check_twins(tokenizer, clean, corrupted, span)
    before = len(lead_in(tokenizer, prepend_bos))
    answer, foil = min(start.above), max(start.upto)
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=_spelt(tokenizer, clean, answer, start.ends[answer]),
        foil=_spelt(tokenizer, clean, foil, start.ends[foil]),
        positions={"Y1": before + span[0], "YY": before + span[-1]},
        template=template,
        prepend_bos=prepend_bos,
        answer_set=tuple({start.ends[year] for year in start.above}),
        foil_set=tuple({start.ends[year] for year in start.upto}),
    )


def _spelt(tokenizer: PreTrainedTokenizerBase, prompt: str, year: int, token: int) -> str | int:
    """The digits that the first token of a year stands for, or the token itself where it cannot stand alone."""
    digits = f"{year:02}"
    return next((text for text in (digits[0], digits) if continuation(tokenizer, prompt, text) == token), token)
