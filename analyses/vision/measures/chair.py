"""CHAIR (1809.02156): how much of what descriptions name is not there."""

from collections.abc import Sequence
from typing import Any

from headlens.analyses.vision.measures.chair_result import Caption, Chair
from headlens.analyses.vision.measures.mentions import Classes, NameTable, name_table
from headlens.analyses.vision.replies import Reply, replies, text_of
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.vision.under import Under
from headlens.hooks.model import Model


def chair(
    model: Model,
    samples: Samples,
    *,
    under: Under = (),
    max_new_tokens: int = 60,
    classes: Classes | None = None,
    batch: int = 32,
    progress: bool = False,
) -> Chair:
    """Greedy descriptions under edits, against the `objects` in the samples' facts.

    Departures from the released evaluation, which knows COCO: what is there are the facts alone (there: instances and
    the words of reference captions), and names are those of `classes`, with no plurals but those given.

    A shorter description names fewer things that are not there, and fewer that are: never read CHAIR without recall and
    length, and compare edits at matched ones.

    Args:
        model: a vision-language model with a tokenizer.
        samples: requests for a description, with `objects` in their facts; `missing`, where given, are objects that a
            prior suggests and that are not there.
        under: edits for all, or a function from the indices of a batch to its edits.
        max_new_tokens: how long a description may be; those that are longer are cut off and counted in `truncated`.
        classes: the objects that can be named, or names with their classes ({"puppies": "dog"}); without, `classes` in
            the samples' details, or else all objects of the samples' facts. What is no class is never hallucinated.
        batch: samples that run together, where they are of equal length.
        progress: show a bar.

    Raises:
        ValueError: for no samples, numbers below 1, facts without objects, an object that is not in the classes, or a
            model without a tokenizer.
    """
    objects = [_objects(samples, at) for at in range(len(samples))]
    missing = [tuple(facts.get("missing", ())) for facts in samples.facts]
    known = samples.details.get("classes") or sorted({name for some in (*objects, *missing) for name in some})
    table = name_table(known if classes is None else classes)
    truth = _truth(table, objects, missing)
    said = replies(model, samples, max_new_tokens, under=under, batch=batch, progress=progress)
    texts = [text_of(model, one) for one in said]
    about = {"analysis": "chair", "max_new_tokens": max_new_tokens, "classes": dict(table.names)}
    return Chair(_captions(table, texts, said, truth), samples.clusters, {**about, **samples_origin(model, samples)})


def chair_of(
    captions: Sequence[str],
    objects: Sequence[Sequence[str]],
    classes: Classes,
    *,
    missing: Sequence[Sequence[str]] = (),
    clusters: Sequence[str] = (),
) -> Chair:
    """The same of descriptions that are given, each with the objects of its picture; all are taken to be whole.

    ValueError for sequences of other lengths than `captions`, and objects that are not in the classes.
    """
    absent = missing or [()] * len(captions)
    labels = tuple(clusters) or tuple(f"sample {at}" for at in range(len(captions)))
    lengths = [len(captions), len(objects), len(absent), len(labels)]
    if len({*lengths}) > 1:
        raise ValueError(
            f"Captions, objects, missing and clusters are of lengths {lengths}; give one for each caption."
        )
    table = name_table(classes)
    # as if each had come to its end
    whole = [Reply((), 0)] * len(captions)
    return Chair(_captions(table, captions, whole, _truth(table, objects, absent)), labels)


def _objects(samples: Samples, at: int) -> tuple[str, ...]:
    found: Any = samples.facts[at].get("objects")
    if found is None or isinstance(found, str):
        raise ValueError(f"Sample {at} has no list of objects in its facts; CHAIR needs what is in each picture.")
    return tuple(found)


def _truth(
    table: NameTable, objects: Sequence[Sequence[str]], missing: Sequence[Sequence[str]]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The classes that are there and those that are missing, each once, for every picture."""
    return [(_classes(table, there), _classes(table, absent)) for there, absent in zip(objects, missing, strict=True)]


def _classes(table: NameTable, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(table.class_of(name) for name in names))


def _captions(
    table: NameTable,
    texts: Sequence[str],
    said: Sequence[Reply],
    truth: Sequence[tuple[tuple[str, ...], tuple[str, ...]]],
) -> tuple[Caption, ...]:
    return tuple(
        Caption(text, table.mentions(text), there, absent, one.ended, one.tokens)
        for text, one, (there, absent) in zip(texts, said, truth, strict=True)
    )
