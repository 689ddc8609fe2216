"""Run folders as people meet them: the result files of a finished sweep, written and read back."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap

# What a run folder holds beside the map itself: (file, format of `headlens export`).
DERIVED = (("results.parquet", "parquet"), ("headmap.json", "json"), ("report.html", "html"))


def write_results(headmap: "HeadMap", folder: Path) -> list[str]:
    """Write the map in every form a reader may want; returns the file names. Equal maps make equal files."""
    from headlens.analyses.checkpoints import RESULT_FILE
    from headlens.export import export

    headmap.save(folder / RESULT_FILE)
    for name, form in DERIVED:
        export(headmap, form, folder / name)
    return [RESULT_FILE, *(name for name, _ in DERIVED)]


def read_result(path: Path) -> "HeadMap":
    """Read the map of a run folder, or of a .safetensors or .json file that headlens wrote.

    ValueError says what was found instead.
    """
    from headlens.analyses.checkpoints import RESULT_FILE
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.headmap_json import from_json

    if path.is_dir():
        if not (path / RESULT_FILE).is_file():
            began = (path / "chunks").is_dir()
            hint = "its sweep is not finished; run the same `headlens sweep` again" if began else "it is not a run"
            raise ValueError(f"The folder {path} holds no {RESULT_FILE}: {hint}.")
        return HeadMap.load(path / RESULT_FILE)
    if not path.is_file():
        raise ValueError(f"There is no {path}; give a run folder, or a .safetensors or .json file of a head map.")
    if path.suffix == ".json":
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a head map: {error}") from error
    return HeadMap.load(path)


def finished_chunks(folder: Path) -> int:
    """Count the finished parts of a run folder, to tell how much of a sweep is resumed."""
    return len(list((folder / "chunks").glob("*.safetensors")))
