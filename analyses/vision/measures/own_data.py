"""Pictures of one's own as Samples: questions about them, descriptions of them, and POPE's questions from lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headlens.analyses.vision.measures.mentions import NameTable, name_table
from headlens.analyses.vision.measures.own_lines import (
    DESCRIPTION,
    QUESTION,
    SHOWN,
    Line,
    inputs_of,
    read_classes,
    read_lines,
    read_questions,
)
from headlens.analyses.vision.measures.pope_pairs import NEGATIVES, counted, paired
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import Model

TEMPLATE = "Is there {a} {object} in the image?"


def image_questions(model: Model, path: str | Path) -> Samples:
    """Prompts with pictures, from lines {"image": "a.png", "question": "Is it red?", "answer": "yes"}.

    `image` may be a list of paths, for a prompt of several pictures; paths start in the file's folder. The question is
    asked as it stands, within the model's chat template where its processor has one. Without "answer", which is yes or
    no for POPE, nothing is right or wrong. Lines about the same pictures are one cluster, unless "cluster" says
    otherwise; all else that a line says is kept as its facts. POPE's own files, with text and label, are read as well.
    ValueError, with the number of the line, for what is not so.
    """
    lines = read_questions(path)
    return Samples(
        "image_questions",
        inputs_of(model, [(line, line.values["question"]) for line in lines]),
        answers=tuple(line.values.get("answer", "") for line in lines),
        clusters=tuple(line.cluster for line in lines),
        facts=tuple({**_others(line), "images": _names(line), "question": line.values["question"]} for line in lines),
        details={"read_from": Path(path).name},
    )


def image_descriptions(model: Model, path: str | Path, *, classes: str | Path | None = None) -> Samples:
    """Requests to describe pictures, from lines {"image": "a.png", "prompt": "Describe it.", "objects": ["dog"]}.

    `objects` are all that is there, for CHAIR; "missing" may list what is not and would be expected. `classes` is a
    JSON file of what can be named at all and of its other names (`own_lines.read_classes`): without it only objects of
    some line can be hallucinated, and plurals are not seen. Facts have the classes of what is there. ValueError, with
    the number of the line, for what is not so, and for an object that is in no class.
    """
    lines = read_lines(path, DESCRIPTION)
    table = _table(lines, classes, ("objects", "missing"))
    facts = [
        {"images": _names(line), **{key: _classes(table, line, key) for key in ("objects", "missing")}}
        for line in lines
    ]
    return Samples(
        "image_descriptions",
        inputs_of(model, [(line, line.values["prompt"]) for line in lines]),
        clusters=tuple(line.cluster for line in lines),
        facts=tuple(facts),
        details={"read_from": Path(path).name, "classes": dict(table.names)},
    )


def questions_about(
    model: Model,
    path: str | Path,
    negatives: str = "random",
    *,
    template: str | Callable[[str], str] = TEMPLATE,
    classes: str | Path | None = None,
    seed: int = 0,
) -> Samples:
    """POPE's questions (2305.10355) about pictures whose objects are known, from lines {"image": "a.png", "objects":
    ["dog", "bench"]}.

    Of each picture up to three objects, the first of its list, are asked about, each followed by one that is not there:
    drawn at "random", the most frequent in the file ("popular"), or the one most often together with the object before
    ("adversarial"); see `pope_pairs.paired`. All three kinds should be asked.

    Args:
        model: a vision-language model with an image processor.
        path: the file; paths of pictures start in its folder.
        negatives: "random", "popular" or "adversarial".
        template: the question, with {object} for what is asked about and {a} for "a" or "an" (by its first letter), or
            a function from the object to the question.
        classes: a JSON file of classes (`own_lines.read_classes`); what is in none of the file's pictures can be asked
            about too, and objects may be listed by their other names. Without it there are the objects of the file.
        seed: of the random negatives, which also depend on the number of the line.

    Returns:
        Samples whose cluster is the picture, and whose facts have its `objects`, the `noun` that is asked for, and
        `paired`, the object that it goes with.

    Raises:
        ValueError: with the number of the line for what is not so; for an unknown kind of negatives, a template without
            {object}, and where there is nothing to ask, as every class is in every picture or no picture has objects.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} was given; expected one of {', '.join(NEGATIVES)}.")
    if isinstance(template, str) and "{object}" not in template:
        raise ValueError(f"The template {template!r} has no {{object}}; put it where the object belongs.")
    lines = read_lines(path, SHOWN)
    table = _table(lines, classes, ("objects",))
    objects = [_classes(table, line, "objects") for line in lines]
    counts = counted(objects, table.classes)
    asked: list[tuple[Line, dict[str, Any], str]] = []
    for at, (line, there) in enumerate(zip(lines, objects, strict=True)):
        for pair in paired(there, negatives, counts, np.random.default_rng([seed, at])):
            about = {"images": _names(line), "objects": there, "paired": pair[0]}
            asked += [(line, {**about, "noun": noun}, word) for noun, word in zip(pair, ("yes", "no"), strict=True)]
    if not asked:
        raise ValueError(
            f"There is nothing to ask about the pictures of {Path(path).name}: none has objects, or all have every one."
        )
    return Samples(
        "questions_about",
        inputs_of(model, [(line, _worded(template, facts["noun"])) for line, facts, _ in asked]),
        answers=tuple(word for _, _, word in asked),
        clusters=tuple(line.cluster for line, _, _ in asked),
        facts=tuple(facts for _, facts, _ in asked),
        details={
            "read_from": Path(path).name,
            "negatives": negatives,
            "template": template if isinstance(template, str) else getattr(template, "__name__", "a function"),
            "seed": seed,
        },
    )


def _worded(template: str | Callable[[str], str], noun: str) -> str:
    if not isinstance(template, str):
        return template(noun)
    article = "an" if noun[:1].lower() in {*"aeiou"} else "a"
    # the noun last, so that nothing in it is taken for a place
    return template.replace("{a}", article).replace("{object}", noun)


def _names(line: Line) -> list[str]:
    given = line.values["image"]
    return [given] if isinstance(given, str) else [*given]


def _others(line: Line) -> dict[str, Any]:
    return {key: value for key, value in line.values.items() if key not in QUESTION.kinds}


def _table(lines: list[Line], classes: str | Path | None, keys: tuple[str, ...]) -> NameTable:
    """The classes of the file that is given, or else all that the lines name."""
    if classes is not None:
        return read_classes(classes)
    named = {name for line in lines for key in keys for name in line.values.get(key, ())}
    if not named:
        raise ValueError("No line names any object; give objects, or classes= for what could be named.")
    return name_table(sorted(named))


def _classes(table: NameTable, line: Line, key: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(table.class_of(name) for name in line.values.get(key, ())))
    except ValueError as error:
        raise ValueError(f"{line.where}: {error}") from error
