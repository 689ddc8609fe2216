"""Which pictures a run is on, before there is a model: some with a prompt, a file of questions, or drawn scenes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.hooks.nearest import did_you_mean
from headlens.source import Source, file_of
from headlens.tables import Table, checked

if TYPE_CHECKING:
    from headlens.analyses.vision.samples import Samples
    from headlens.hooks.model import Model

SCENES = "scenes"


class ImageTable(Table):
    """[image]: the files of one prompt's pictures, in their order, and its text."""

    files: str | list[str]
    prompt: str


class QuestionsTable(Table):
    """[questions]: a .jsonl file of them."""

    file: str


class SceneTable(Table):
    """[task] of a run on drawn scenes: the arguments of `scene_questions`."""

    name: str
    n: int = 200
    seed: int = 0
    negatives: str = "random"


def choose_pictures(given: Mapping[str, Mapping[str, Any]], where: Callable[[str], str], folder: Path) -> Source:
    """The source that the one table of these describes. ValueError for no table, a missing file or one that is no
    picture, two pictures of one file name, an empty prompt, or another task than scenes."""
    for name, choose in (("image", _images), ("questions", _questions), ("task", _scenes)):
        if name in given:
            return choose(given[name], where(name), folder)
    raise ValueError("No picture was named; give one, such as --image photo.jpg, and a --prompt.")


def _images(given: Mapping[str, Any], where: str, folder: Path) -> Source:
    from headlens.analyses.vision.image_prompts import open_picture

    table = checked(ImageTable, given, where)
    files = [table.files] if isinstance(table.files, str) else table.files
    paths = tuple(folder / Path(file).expanduser() for file in files)
    if not paths:
        raise ValueError(f"{where} names no picture; give a PNG or JPEG file.")
    if not table.prompt.strip():
        raise ValueError("The prompt is empty; give the text that stands beside the picture, such as a question.")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no picture {str(path)!r}; give a PNG or JPEG file.")
        open_picture(path)
    names = [path.name for path in paths]
    # the run folder keeps a copy of each under its name
    if len({*names}) < len(names):
        raise ValueError(f"Two pictures are called {max(names, key=names.count)!r}; give each a name of its own.")
    settings = {"files": names, "prompt": table.prompt}
    return Source("image", lambda model: _one_prompt(model, paths, table.prompt), settings, pictures=paths)


def _questions(given: Mapping[str, Any], where: str, folder: Path) -> Source:
    from headlens.analyses.vision.measures.own_lines import read_questions

    of_what = "questions about pictures"
    path = file_of(checked(QuestionsTable, given, where).file, ".jsonl", of_what, where, folder).resolve()
    # now, and not when the model is there: a slip of the pen is told at once
    read_questions(path)
    # the pictures are too many to keep, so the file stays where they are
    return Source("questions", lambda model: _of_file(model, path), {"file": str(path)})


def _of_file(model: "Model", path: Path) -> "Samples":
    from headlens.analyses.vision.image_prompts import refuse_blind
    from headlens.analyses.vision.measures.own_data import image_questions

    refuse_blind(model)
    return image_questions(model, path)


def _scenes(given: Mapping[str, Any], where: str, folder: Path) -> Source:
    from headlens.analyses.vision.scenes.scene_questions import NEGATIVES

    table = checked(SceneTable, given, where)
    if table.name != SCENES:
        raise ValueError(f"Unknown task {table.name!r} of pictures; there is {SCENES}, and --data of your own.")
    if table.n < 1:
        raise ValueError(f"n={table.n} scenes were asked for; give at least 1.")
    if table.negatives not in NEGATIVES:
        hint = did_you_mean(table.negatives, NEGATIVES)
        raise ValueError(f"Unknown negatives {table.negatives!r}{hint}; they are {', '.join(NEGATIVES)}.")
    return Source("task", lambda model: _drawn(model, table), table.model_dump())


def _one_prompt(model: "Model", paths: Sequence[Path], text: str) -> "Samples":
    from headlens.analyses.vision.image_prompts import image_prompt, open_picture, refuse_blind
    from headlens.analyses.vision.samples import Samples

    refuse_blind(model)
    inputs = image_prompt(model, [open_picture(path) for path in paths], text)
    return Samples("image", (inputs,), facts=({"prompt": text, "pictures": [path.name for path in paths]},))


def _drawn(model: "Model", table: SceneTable) -> "Samples":
    from headlens.analyses.vision.image_prompts import refuse_blind
    from headlens.analyses.vision.scenes.scene_samples import scene_questions

    refuse_blind(model)
    return scene_questions(model, table.n, table.seed, negatives=table.negatives)
