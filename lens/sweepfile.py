"""A run in a TOML file: the model, the task, and what is swept or attributed.

    model = "smollm2-135m"          # required; also device and dtype, as `headlens.load` takes them
    out = "runs/by-position"        # the run folder, unless --out says another

    [task]                          # required: a name and its maker's arguments, or file = "pairs.jsonl"
    name = "ioi"
    n = 32
    corruption = "swap"

    [sweep]                         # arguments of `headlens.patch_sweep`; for `headlens attribute`: [attribute]
    axes = ["layer", "head", "pos"]
    metric = ["logit_diff", "kl"]
    positions = ["S2", "END"]

Paths are looked up from the file's own folder.
"""

import tomllib
from pathlib import Path
from typing import Any

from headlens.catalogue import CATALOGUE
from headlens.cell_tables import TABLES
from headlens.tables import Table, checked
from headlens.task_choice import choose_task
from headlens.work import Work


class _File(Table):
    model: str
    device: str | None = None
    dtype: str | None = None
    out: str | None = None
    task: dict[str, Any]
    sweep: dict[str, Any] | None = None
    attribute: dict[str, Any] | None = None


def read_work(path: Path, *kinds: str) -> Work:
    """The work that a file describes, of one of these kinds: "sweep", "attribute".

    ValueError says in a sentence what in the file does not fit, and where.
    """
    given, folder = checked(_File, _parsed(path), str(path)), path.parent
    there = [kind for kind in TABLES if getattr(given, kind) is not None] or [*kinds[:1]]
    if len(there) > 1:
        raise ValueError(f"{path} has both [sweep] and [attribute]; one run does one of them.")
    (kind,) = there
    if kind not in kinds:
        raise ValueError(f"{path} has a table [{kind}]; run it with `headlens {kind}`.")
    beside = given.model not in CATALOGUE and (folder / given.model).is_dir()
    return Work(
        model=str(folder / given.model) if beside else given.model,
        task=choose_task(given.task, f"[task] of {path}", folder),
        cells=checked(TABLES[kind], getattr(given, kind) or {}, f"[{kind}] of {path}"),
        kind=kind,
        device=given.device,
        dtype=given.dtype,
        out=None if given.out is None else folder / Path(given.out).expanduser(),
    )


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
