"""Lettered options (after arXiv 2307.09458): something is told and asked for; which option, by its letter, is right?

Clean: "The pen is red. What color is the pen?\\nA. blue\\nB. red\\nC. gray\\nD. pink\\nAnswer:" -> " B". In the
corrupted prompt the right option and another one have changed places, so that another letter is right. Templates and
word lists: data/tasks/lettered.toml.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, repeat
from random import Random
from string import Formatter, ascii_uppercase
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from headlens.analyses.examples import check_shots, hands, without
from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, deal, read, render, turns, words_that_fit
from headlens.analyses.tokens import check_twins, continuation, lead_in, position_of, tokenizer_of
from headlens.hooks.model import Model

MUTATIONS = ("none", "shuffled", "relettered")
ANSWER = "\nAnswer:"


class Question(NamedTuple):
    """What is told of whom, the options in the order in which they stand, and the letter in front of each."""

    template: str
    subject: str
    options: tuple[str, ...]
    letters: tuple[str, ...]
    right: int


def lettered(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    letters: str = "ABCD",
    mutation: str = "none",
    shots: int = 2,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Lettered options (after arXiv 2307.09458): which letter has the option that is right?

    n prompts: solved examples (`shots`) and then a question with an option for each of the `letters`, such as "The pen
    is red. What color is the pen?\\nA. blue\\nB. red\\n..\\nAnswer:" with the answer " B". In the corrupted prompt the
    right option and another one have changed places, and nothing else: the other one's letter is the foil, so that the
    answer flips. `letters` may be digits; where the space before one is a token by itself, the prompt ends in it.

    A `mutation` changes the letters alone, in the examples too; words, places and positions stay as they are with
    "none". "shuffled": the letters stand in a random order in each question, and in the last one the right option never
    has the letter of its place, so that what follows the letter is told from what follows the place. "relettered": the
    letters of a prompt are other capitals, drawn at random.

    Positions L1, O1, .. (the letter and the content of each option in the order in which they stand), L+ and O+ (those
    of the right option), L- and O- (of the one it changes places with), FACT (the content where it is told) and END.
    `details` list per prompt which options are right and foil, from 1 ("right_items", "foil_items"), and their letters
    ("right_letters", "foil_letters"). `templates` are ids from data/tasks/lettered.toml (None: all); they take turns,
    and so do the places of the right option. No example is about the question's subject or offers one of its contents.
    Contents that are not one token for this tokenizer are left out. `prepend_bos` None follows the tokenizer. No prompt
    comes twice as long as there are others. Equal arguments give equal tasks.

    The paper asks MMLU's questions, which take knowledge; here the answer is told, so that only the letter is to be
    found. That is beyond SmolLM2-135M, which answers with a letter and chooses it at chance: right are 0.235, 0.235 and
    0.265 of the prompts of lettered(model, n=200, shots=..) with 1, 2 and 3 examples, and the mean logit differences
    are -0.01, 0.03 and 0.00. The task is for larger models.
    """
    chosen("lettered", "mutation", mutation, MUTATIONS)
    templates = chosen("lettered", "template", templates, read("lettered")["templates"])
    check_shots(shots)
    _check_letters(letters)
    tokenizer = tokenizer_of(model)
    pool = [letter for letter in ascii_uppercase if letter not in letters] if mutation == "relettered" else [*letters]
    words = {template: _fitting(tokenizer, template, len(letters) * (2 if shots else 1)) for template in templates}
    ends = {template: _end(tokenizer, template, words[template], pool) for template in templates}
    rng = Random(seed)
    # letters by numbers of their own: without them, the prompts of all mutations are the same
    by_letter = Random(int(rng.random() * 2**32))
    seen, pairs, asked = set(), [], []
    for template, item in turns(n, templates, [str(item) for item in range(len(letters))]):
        for _ in range(100):
            questions = _draw(rng, template, int(item), len(letters), shots, words)
            if (*questions,) not in seen:
                break
        seen.add((*questions,))
        query, *examples = _with_letters(by_letter, questions, mutation, pool, len(letters))
        instead = without(range(len(letters)), [query.right])[int(rng.random() * (len(letters) - 1))]
        pairs.append(_pair(tokenizer, query, instead, examples, ends[template], prepend_bos))
        asked.append((query.right + 1, query.letters[query.right], instead + 1, query.letters[instead]))
    details = {"n": n, "seed": seed, "letters": letters, "mutation": mutation, "shots": shots}
    details |= {"templates": [*templates]}
    names = ("right_items", "right_letters", "foil_items", "foil_letters")
    details |= {name: [*column] for name, column in zip(names, zip(*asked, strict=True), strict=True)}
    return Task.from_pairs(model, pairs, name="lettered", details=details)


def _check_letters(letters: str) -> None:
    if len({*letters}) < max(2, len(letters)) or not letters.isalnum():
        raise ValueError(
            f"letters={letters!r} was given; expected 2 or more different letters or digits, one to an option, "
            "such as 'ABCD' or '1234'."
        )


@cache
def _lists_of(template: str) -> tuple[str, str]:
    """The lists of subjects and of contents that a template draws from."""
    found = read("lettered")
    slots = [slot for _, slot, _, _ in Formatter().parse(found["templates"][template]) if slot]
    subjects, contents = ({slot for slot in slots if slot in found[kind]} for kind in ("subjects", "contents"))
    return subjects.pop(), contents.pop()


def _fitting(tokenizer: PreTrainedTokenizerBase, template: str, needed: int) -> tuple[str, ...]:
    """The contents that are one token where they are told and where they are an option."""
    found = read("lettered")
    subjects, contents = _lists_of(template)
    stem = (
        found["templates"][template].split(f" {{{contents}}}")[0].format(**{subjects: found["subjects"][subjects][0]})
    )
    return words_that_fit(
        tokenizer, f"lettered {contents}", found["contents"][contents], [stem, f"{stem}?\nA."], needed
    )


def _end(tokenizer: PreTrainedTokenizerBase, template: str, contents: Sequence[str], letters: Sequence[str]) -> str:
    """What follows "Answer:" in the prompts: nothing, or a space where this is a token by itself before the letters."""
    subject = read("lettered")["subjects"][_lists_of(template)[0]][0]
    question = Question(template, subject, tuple(contents[: len(letters)]), tuple(letters), 0)
    text = _told(question)[0]
    for end in ("", " "):
        tokens = {continuation(tokenizer, text + end, " "[len(end) :] + letter) for letter in letters}
        if None not in tokens and len(tokens) == len(letters):
            return end
    raise ValueError(
        f"The letters {''.join(letters)!r} are not single tokens behind 'Answer:' for this tokenizer "
        f"({len(tokenizer)} tokens); give others, or build a task from your own prompts with Task.from_pairs."
    )


def _draw(
    rng: Random, template: str, right: int, size: int, shots: int, words: Mapping[str, Sequence[str]]
) -> list[Question]:
    """A question, and solved ones without its words, none of them with letters yet.

    Only `Random.random` is used, whose numbers for a seed are the same on every platform and Python version.
    """
    templates = [template, *islice(deal(rng, [*words]), shots)]
    subjects: dict[str, Iterator[str]] = {
        kind: deal(rng, found) for kind, found in read("lettered")["subjects"].items()
    }
    query: list[str] = []
    questions = []
    for each in templates:
        options = next(hands(rng, without(words[each], query), size))
        at = int(rng.random() * size) if questions else right
        query = query or options
        questions.append(Question(each, next(subjects[_lists_of(each)[0]]), tuple(options), (), at))
    return questions


def _with_letters(
    rng: Random, questions: Sequence[Question], mutation: str, pool: Sequence[str], size: int
) -> list[Question]:
    """The questions with a letter for each option: the same letters in all, in order or in an order of each."""
    letters = next(hands(rng, pool, size)) if mutation == "relettered" else [*pool]
    orders = hands(rng, letters, size) if mutation == "shuffled" else repeat(letters)
    query, *examples = questions
    order = next(orders)
    while mutation == "shuffled" and order[query.right] == letters[query.right]:
        order = next(orders)
    return [
        query._replace(letters=tuple(order)),
        *(example._replace(letters=tuple(next(orders))) for example in examples),
    ]


def _told(question: Question) -> tuple[str, dict[str, tuple[int, int]]]:
    """The question and its options up to "Answer:", and where the fact, each letter and each option stand in it."""
    subjects, contents = _lists_of(question.template)
    slots = {subjects: question.subject, contents: question.options[question.right]}
    text, inside = render(read("lettered")["templates"][question.template], slots)
    spans = {"FACT": inside[contents]}
    for item, (letter, option) in enumerate(zip(question.letters, question.options, strict=False), 1):
        text += f"\n{letter}"
        spans[f"L{item}"] = (len(text) - len(letter), len(text))
        text += f". {option}"
        spans[f"O{item}"] = (len(text) - len(option), len(text))
    return text + ANSWER, spans


def _pair(
    tokenizer: PreTrainedTokenizerBase,
    query: Question,
    instead: int,
    examples: Sequence[Question],
    end: str,
    prepend_bos: bool | None,
) -> Pair:
    front = "".join(f"{_told(example)[0]} {example.letters[example.right]}\n\n" for example in examples)
    question, inside = _told(query)
    swapped = [*query.options]
    swapped[query.right], swapped[instead] = swapped[instead], swapped[query.right]
    # what is told stays: the right option is where the other one was
    corrupted = front + _told(query._replace(options=tuple(swapped), right=instead))[0] + end
    clean = front + question + end
    spans = {name: (len(front) + start, len(front) + stop) for name, (start, stop) in inside.items()}
    positions = {name: position_of(tokenizer, clean, *span) for name, span in spans.items()}
    for sign, item in (("+", query.right + 1), ("-", instead + 1)):
        positions |= {f"L{sign}": positions[f"L{item}"], f"O{sign}": positions[f"O{item}"]}
    first, last = sorted((positions["O+"], positions["O-"]))
    check_twins(tokenizer, clean, corrupted, range(first, last + 1))
    before = len(lead_in(tokenizer, prepend_bos))
    space = " "[len(end) :]
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=f"{space}{query.letters[query.right]}",
        foil=f"{space}{query.letters[instead]}",
        positions={name: before + position for name, position in positions.items()},
        template=f"{query.template} item {query.right + 1}",
        prepend_bos=prepend_bos,
    )
