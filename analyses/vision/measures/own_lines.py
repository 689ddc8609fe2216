"""Lines about pictures of one's own, in a JSONL file, and the classes of what can be named, in a JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headlens.analyses.authored import TEXT, Form, Kind, read_form
from headlens.analyses.jsonl_objects import read_objects
from headlens.analyses.vision.image_prompts import image_prompt, open_picture
from headlens.analyses.vision.measures.mentions import NameTable, name_table
from headlens.hooks.model import Model


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


_IMAGES = Kind(lambda value: _is_name(value) or (_are_names(value) and bool(value)), "a path, or a list of paths")
_WORDS = Kind(_is_name, "text, and not empty")
_OBJECTS = Kind(_are_names, "a list of names, without empty ones")

QUESTION = Form(
    "a question",
    {"image": _IMAGES, "question": _WORDS, "answer": TEXT, "cluster": TEXT},
    ("image", "question"),
    (),
)
# What other files call them: POPE's own have text and label.
_ALSO = {"prompt": "question", "text": "question", "label": "answer"}
DESCRIPTION = Form(
    "a request for a description",
    {"image": _IMAGES, "prompt": TEXT, "objects": _OBJECTS, "missing": _OBJECTS, "cluster": TEXT},
    ("image", "prompt", "objects"),
    (),
)
SHOWN = Form("a picture", {"image": _IMAGES, "objects": _OBJECTS, "cluster": TEXT}, ("image", "objects"), ())


@dataclass(frozen=True, eq=False)
class Line:
    """What one line says, with the words that name it in errors; `images` are its paths, those of the file."""

    where: str
    values: Mapping[str, Any]
    images: tuple[Path, ...]

    @property
    def cluster(self) -> str:
        """What it is resampled with: as it says, or all that is about the same pictures."""
        named = self.values["image"]
        return self.values.get("cluster") or (named if isinstance(named, str) else " and ".join(named))


def read_lines(path: str | Path, form: Form) -> list[Line]:
    """The lines of a file, blank ones skipped; paths of pictures are taken from the file's own folder.

    ValueError with the number of a line that is not as the form says, and for a file that holds none.
    """
    return _lines(path, form, [(where, read_form(form, read, where)) for where, read in read_objects(path)])


def read_questions(path: str | Path) -> list[Line]:
    """The lines of a file of questions, in which other keys may stand too: they are kept in `values`.

    A question may be called question, prompt or text, and its answer answer or label. ValueError as for `read_lines`,
    and where a line says one of them twice.
    """
    named = []
    for where, read in read_objects(path):
        values = {_ALSO.get(key, key): value for key, value in read.items()}
        if len(values) < len(read):
            raise ValueError(
                f"{where}: two keys for one thing; give one of question, prompt, text, and one of answer, label."
            )
        read_form(QUESTION, {key: value for key, value in values.items() if key in QUESTION.kinds}, where)
        named.append((where, values))
    return _lines(path, QUESTION, named)


def _lines(path: str | Path, form: Form, named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Line]:
    folder, lines = Path(path).parent, []
    for where, values in named:
        given = [values["image"]] if isinstance(values["image"], str) else values["image"]
        images = tuple(folder / one for one in given)
        for image in images:
            if not image.is_file():
                raise ValueError(
                    f"{where}: there is no picture {str(image)!r}; give its path from the folder of this file."
                )
        lines.append(Line(where, values, images))
    if not lines:
        raise ValueError(f"{Path(path).name} has no lines; give {form.noun} as a JSON object on each.")
    return lines


def inputs_of(model: Model, asked: Sequence[tuple[Line, str]]) -> tuple[dict[str, Tensor], ...]:
    """The model's own inputs for the pictures of a line and a text, each. Equal pixels in a row are kept once.

    ValueError, with the number of the line, for a picture that cannot be read and for what `image_prompt` refuses.
    """
    made: list[dict[str, Tensor]] = []
    paths, pictures = None, []
    for line, text in asked:
        try:
            if line.images != paths:
                paths, pictures = line.images, [open_picture(path) for path in line.images]
            inputs = image_prompt(model, pictures, text)
        except (OSError, ValueError) as error:
            raise ValueError(f"{line.where}: {error}") from error
        # a processor makes the pixels anew for every question about one picture
        before = made[-1] if made else {}
        made.append({name: _once(before.get(name), value) for name, value in inputs.items()})
    return tuple(made)


def read_classes(path: str | Path) -> NameTable:
    """The classes of a JSON file: a list of names, or an object from each class to a list of its other names.

    {"dog": ["dogs", "puppy"], "hot dog": ["hot dogs"], "": ["dog house"]}; names of "" are passed over. ValueError for
    a file that is not there, or anything else in it.
    """
    name = Path(path).name
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"There is no file {str(path)!r} to read classes from.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error}); expected a list of names, or names by class.") from None
    fits = _are_names(read) or (isinstance(read, dict) and all(map(_are_names, read.values())))
    if not fits:
        raise ValueError(f'{name} holds something else; expected ["dog", ...], or {{"dog": ["puppy", ...], ...}}.')
    if isinstance(read, list):
        return _in_file(name, {one: one for one in read})
    pairs = [(one, own) for own, names in read.items() for one in (*([own] if own else []), *names)]
    twice = {one for one, own in pairs if dict(pairs)[one] != own}
    if twice:
        raise ValueError(f"{name} gives {sorted(twice)[0]!r} to two classes; give each name to one.")
    return _in_file(name, {one: own or None for one, own in pairs})


def _in_file(name: str, names: Mapping[str, str | None]) -> NameTable:
    try:
        return name_table(names)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _once(before: Tensor | None, value: Tensor) -> Tensor:
    same = before is not None and before.shape == value.shape and before.dtype == value.dtype and before.equal(value)
    return before if same and before is not None else value
