"""A run in a TOML file: the model, what is read, and what is done with it.

    model = "smollm2-135m"          # required; also device and dtype, as `headlens.load` takes them
    out = "runs/by-position"        # the run folder, unless --out says another

    [task]                          # a name and its maker's arguments, or file = "pairs.jsonl"
    name = "ioi"
    n = 32
    corruption = "swap"

    [sweep]                         # arguments of `headlens.patch_sweep`, or another kind of run: see `headlens.kinds`
    axes = ["layer", "head", "pos"]
    metric = ["logit_diff", "kl"]
    positions = ["S2", "END"]

Runs that only read prompts, [stats] and [sinks], may have a [text] in place of the task: name = "english" (the default)
or file = "mine.txt", and n, length and seed. Runs on pictures, [look], [divergence] and [redistribute], have a table
[image] with files and a prompt. Paths are looked up from the file's own folder.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model

from headlens.catalogue import CATALOGUE
from headlens.kinds import KINDS
from headlens.tables import Table, checked
from headlens.work import Work


class _File(Table):
    model: str
    device: str | None = None
    dtype: str | None = None
    out: str | None = None


def read_work(path: Path, *kinds: str) -> Work:
    """The work that a file describes, of one of these kinds, such as "sweep"; without a table of any, the first.

    ValueError says in a sentence what in the file does not fit, and where.
    """
    parsed, folder = _parsed(path), path.parent
    there = [kind for kind in KINDS if kind in parsed] or [*kinds[:1]]
    if len(there) > 1:
        raise ValueError(f"{path} has both [{there[0]}] and [{there[1]}]; one run does one of them.")
    (kind,) = there
    if kind not in kinds:
        raise ValueError(f"{path} has a table [{kind}]; run it with `headlens {kind}`.")
    given: Any = checked(_file_of(kind), parsed, str(path))
    named = {name: table for name in KINDS[kind].sources if (table := getattr(given, name)) is not None}
    if len(named) > 1:
        raise ValueError(f"{path} has both {' and '.join(f'[{name}]' for name in named)}; one run reads one of them.")
    beside = given.model not in CATALOGUE and (folder / given.model).is_dir()
    return Work(
        model=str(folder / given.model) if beside else given.model,
        source=KINDS[kind].choose(named, lambda table: f"[{table}] of {path}", folder),
        table=checked(KINDS[kind].table, getattr(given, kind) or {}, f"[{kind}] of {path}"),
        kind=kind,
        device=given.device,
        dtype=given.dtype,
        out=None if given.out is None else folder / Path(given.out).expanduser(),
    )


@cache
def _file_of(kind: str) -> type[_File]:
    """The file of a run of this kind: what it reads is required where there is one table for it."""
    table: Any = (dict[str, Any] | None, None)
    sources = KINDS[kind].sources
    fields: dict[str, Any] = {name: table if len(sources) > 1 else (dict[str, Any], ...) for name in sources}
    return create_model("File", __base__=_File, **fields, **{kind: table})


def _parsed(path: Path) -> dict[str, Any]:
    if path.is_dir():
        inside = path / "config.toml"
        hint = f"give its {inside}" if inside.is_file() else "give a TOML file"
        raise ValueError(f"{path} is a folder; {hint}.")
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}; expected a TOML file that describes a run.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}.") from None
