"""Which text a run reads, before there is a model: the English that comes with headlens, or a file of the user's."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.hooks.nearest import did_you_mean
from headlens.source import Source, file_of
from headlens.tables import Table, checked

if TYPE_CHECKING:
    from headlens.analyses.prompts import Prompts
    from headlens.hooks.model import Model

ENGLISH = "english"


class _Windows(Table):
    """How a text is cut: into n windows of so many tokens, drawn by the seed."""

    n: int = 16
    length: int = 256
    seed: int = 0


class _Named(_Windows):
    name: str = ENGLISH


class _OfFile(_Windows):
    file: str


def choose_text(given: Mapping[str, Any], where: str, folder: Path) -> Source:
    """The windows of a table such as {name = "english", n = 8, length = 512} or {file = "mine.txt"}.

    Files are looked up from `folder`. ValueError for another name, a key or a file that is not there, or a file that is
    not UTF-8 text.
    """
    cut: _Windows
    if "file" in given:
        cut = checked(_OfFile, given, where)
        path = file_of(cut.file, ".txt", "running text", where, folder)
        text = _read(path)
        settings = {**cut.model_dump(), "file": path.name}
    else:
        cut = checked(_Named, given, where)
        if cut.name != ENGLISH:
            hint = did_you_mean(cut.name, [ENGLISH])
            raise ValueError(f"Unknown text {cut.name!r}{hint}; give {ENGLISH}, or a .txt file.")
        path, text, settings = None, None, cut.model_dump()
    if cut.n < 1:
        raise ValueError(f"n={cut.n} windows were asked for; give at least 1.")
    if cut.length < 2:
        raise ValueError(f"length={cut.length} was given; a window of text needs 2 tokens or more.")
    ordered = {key: settings[key] for key in ("name", "file", "n", "length", "seed") if key in settings}
    return Source("text", lambda model: _windows(model, text, path, cut), ordered, path)


def _windows(model: "Model", text: str | None, path: Path | None, cut: _Windows) -> "Prompts":
    from headlens.analyses.english import english_windows, text_windows
    from headlens.analyses.prompts import prompts_of_windows

    sizes = cut.model_dump(include={"n", "length", "seed"})
    if text is None or path is None:
        # the English is another in each Python
        details = {**sizes, "python": platform.python_version()}
        return prompts_of_windows(model, english_windows(model, **sizes), ENGLISH, details)
    return prompts_of_windows(model, text_windows(model, text, **sizes), path.stem, sizes)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"There is no text file {str(path)!r}; expected running text in UTF-8.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
