"""Colored objects (arXiv 2310.08744): three objects and their colors are told; what color is the one asked for?

Clean, behind a solved example with other objects and colors: "Q: On the desk, I see a red cup, a blue pen, and a green
jug. What color is the pen?\\nA:" -> " Blue". The corrupted prompt asks for another object of the same scene. Wordings,
templates, objects and colors: data/tasks/colored_objects.toml.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from headlens.analyses.examples import check_shots, hands, without
from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, read, render, turns, words_that_fit
from headlens.analyses.tokens import check_twins, lead_in, position_of, tokenizer_of
from headlens.hooks.model import Model

SLOTS = range(3)
# How many solved examples stand in front of the question, unless told.
SHOTS = {"paper": 1, "plain": 3}


class Scene(NamedTuple):
    """Three objects with their colors, in the order in which they are named, and which one is asked for."""

    template: str
    colors: tuple[str, ...]
    objects: tuple[str, ...]
    queried: int


def colored_objects(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    wording: str = "plain",
    shots: int | None = None,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Colored objects (arXiv 2310.08744): what color is the object asked for?

    n prompts: solved examples and then a question, with the color as the answer. The corrupted prompt asks for another
    object of the same scene and differs in this one token; its color is the foil, so that the answer flips. Wordings:

        "paper"  Q: On the desk, I see a red cup, a blue pen, and a green jug. What color is the pen?\\nA:  -> " Blue"
        "plain"  The cup is red, the pen is blue, and the jug is green. The pen is                      -> " blue"

    `shots` is how many examples there are (None: 1 for "paper", as in the paper, and 3 for "plain"). No example has an
    object or a color of the question, nor an object of another example as long as there are others; their templates
    are drawn from the same ones. Positions C1, O1, .. C3, O3 (the question's colors and objects in their order), Oq
    (the object asked for, where the question ends), C+ and C- (the colors of answer and foil), EXAMPLE (the answer of
    the last example, if there is one) and END. `details` list per prompt which object is asked for in the clean prompt
    ("queried", 1 to 3) and in the corrupted one ("queried_instead"). `templates` are ids of the wording from
    data/tasks/colored_objects.toml (None: all); they take turns, and so do the objects asked for. Colors and objects
    that are not one token for this tokenizer are left out. `prepend_bos` None follows the tokenizer; the paper has no
    BOS. No prompt comes twice as long as there are others. Equal arguments give equal tasks.

    SmolLM2-135M gives the right color, of all tokens and of the scene's three, to these shares of the prompts of
    colored_objects(model, n=200, wording=.., shots=..):

        paper, 1 shot    0.315  0.375        plain, 1 shot    0.395  0.580
                                             plain, 2 shots   0.505  0.575
                                             plain, 3 shots   0.535  0.565
                                             plain, 4 shots   0.555  0.590

    So "plain" is the default: "paper" is at chance there. The paper's GPT-2 medium gets 0.496 with "paper". Where each
    word is one token, as for GPT-2, that wording has the paper's 62 tokens. Its 1000 prompts are not these: words and
    wordings are drawn anew, and the object asked for takes turns.
    """
    wordings = read("colored_objects")["wordings"]
    (wording,) = chosen("colored-objects", "wording", wording, wordings)
    templates = chosen("colored-objects", "template", templates, wordings[wording]["templates"])
    shots = SHOTS[wording] if shots is None else shots
    check_shots(shots)
    tokenizer = tokenizer_of(model)
    colors, objects = _fitting(tokenizer, wording, templates, needed=len(SLOTS) * (2 if shots else 1))
    rng, seen, pairs, asked = Random(seed), set(), [], []
    for template, slot in turns(n, templates, [str(slot) for slot in SLOTS]):
        for _ in range(100):
            query, instead, examples = _draw(rng, template, int(slot), shots, templates, colors, objects)
            if (query, *examples) not in seen:
                break
        seen.add((query, *examples))
        pairs.append(_pair(tokenizer, wording, query, instead, examples, prepend_bos))
        asked.append((query.queried + 1, instead + 1))
    details = {"n": n, "seed": seed, "wording": wording, "shots": shots, "templates": [*templates]}
    details |= {"queried": [slot for slot, _ in asked], "queried_instead": [slot for _, slot in asked]}
    return Task.from_pairs(model, pairs, name="colored_objects", details=details)


def _fitting(
    tokenizer: PreTrainedTokenizerBase, wording: str, templates: Sequence[str], needed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The colors and the objects that are one token wherever these templates would put them, as answers too."""
    found = read("colored_objects")
    texts = [found["templates"][template] for template in templates]
    example = Scene("", ("red", "blue", "green"), ("cup", "pen", "ball"), 1)

    def stems(*slots: str) -> list[str]:
        return [text.split(f" {{{slot}}}")[0].format(**_slots(example)) for text in texts for slot in slots]

    objects = words_that_fit(tokenizer, "colored objects", found["objects"], stems("O1", "O2", "O3", "Oq"), needed)
    colors = words_that_fit(tokenizer, "colors of objects", found["colors"], stems("C1", "C2", "C3"), needed)
    # no template has a slot "answer", so that colors are tried where it goes: behind the last word
    answers = {_as_answer(wording, color): color for color in colors}
    fitting = words_that_fit(tokenizer, "colors as answers", [*answers], stems("answer"), needed)
    return tuple(answers[answer] for answer in fitting), objects


def _draw(
    rng: Random,
    template: str,
    queried: int,
    shots: int,
    templates: Sequence[str],
    colors: Sequence[str],
    objects: Sequence[str],
) -> tuple[Scene, int, list[Scene]]:
    """A scene, which object the corrupted prompt asks for instead, and examples without the scene's words.

    Only `Random.random` is used, whose numbers for a seed are the same on every platform and Python version.
    """
    size = len(SLOTS)
    query = Scene(template, tuple(next(hands(rng, colors, size))), tuple(next(hands(rng, objects, size))), queried)
    instead = without(SLOTS, [queried])[int(rng.random() * (size - 1))]
    other_colors = hands(rng, without(colors, query.colors), size)
    other_objects = hands(rng, without(objects, query.objects), size)
    examples = [
        Scene(
            templates[int(rng.random() * len(templates))],
            tuple(next(other_colors)),
            tuple(next(other_objects)),
            int(rng.random() * size),
        )
        for _ in range(shots)
    ]
    return query, instead, examples


def _slots(scene: Scene, queried: int | None = None) -> dict[str, str]:
    """What fills a template; `queried` asks for another object than the scene does."""
    slots = {"Oq": scene.objects[scene.queried if queried is None else queried]}
    for slot, (color, thing) in enumerate(zip(scene.colors, scene.objects, strict=True), 1):
        slots |= {f"C{slot}": color, f"O{slot}": thing, f"a{slot}": "an" if color[0] in "aeiou" else "a"}
    return slots


def _as_answer(wording: str, color: str) -> str:
    return color.title() if read("colored_objects")["wordings"][wording]["title_case"] else color


def _pair(
    tokenizer: PreTrainedTokenizerBase,
    wording: str,
    query: Scene,
    instead: int,
    examples: Sequence[Scene],
    prepend_bos: bool | None,
) -> Pair:
    found: dict[str, Any] = read("colored_objects")
    texts, behind = found["templates"], found["wordings"][wording]["behind"]
    lines, spans = "", {}
    for example in examples:
        lines += render(texts[example.template], _slots(example))[0]
        answer = _as_answer(wording, example.colors[example.queried])
        # of several examples, the last one's
        spans["EXAMPLE"] = (len(lines) + 1, len(lines) + 1 + len(answer))
        lines += f" {answer}{behind}"
    question, inside = render(texts[query.template], _slots(query))
    corrupted = lines + render(texts[query.template], _slots(query, instead))[0]
    spans |= {name: (len(lines) + start, len(lines) + end) for name, (start, end) in inside.items() if name[0] != "a"}
    clean = lines + question
    positions = {name: position_of(tokenizer, clean, *span) for name, span in spans.items()}
    check_twins(tokenizer, clean, corrupted, range(positions["Oq"], positions["Oq"] + 1))
    positions |= {"C+": positions[f"C{query.queried + 1}"], "C-": positions[f"C{instead + 1}"]}
    before = len(lead_in(tokenizer, prepend_bos))
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=f" {_as_answer(wording, query.colors[query.queried])}",
        foil=f" {_as_answer(wording, query.colors[instead])}",
        positions={name: before + position for name, position in positions.items()},
        template=f"{query.template} object {query.queried + 1}",
        prepend_bos=prepend_bos,
    )
