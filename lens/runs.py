"""Run folders as people meet them: what a run is of, and the result files of a finished one, written and read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap

# What a run folder holds beside the map itself: (file, format of `headlens export`).
DERIVED = (("results.parquet", "parquet"), ("headmap.json", "json"), ("report.html", "html"))
# What `headlens verify` adds.
VERIFIED = (("verified.safetensors", "safetensors"), ("verified.json", "json"))
# What `headlens sinks` and `headlens calibrate` add.
SINKS_FILE = "sinks.csv"
CALIBRATION_FILE, ESTIMATE_FILE = "calibration.json", "estimate.safetensors"
# What `headlens look` and `headlens redistribute` have: gazes, and what moved.
GAZE_FILE, GAZE_TABLE = "gaze.safetensors", "gaze.csv"
BEFORE_FILE, AFTER_FILE, MOVED_FILE, HEADS_FILE = "before.safetensors", "after.safetensors", "moved.csv", "heads.html"
_SOME_RUNS = (
    *(SINKS_FILE, CALIBRATION_FILE, ESTIMATE_FILE, GAZE_FILE, GAZE_TABLE),
    *(BEFORE_FILE, AFTER_FILE, MOVED_FILE, HEADS_FILE),
)


def announce(files: Mapping[str, bytes], folder: Path, fresh: bool) -> None:
    """Write what a run is of before it starts, unless the folder holds a run already: that may be another one.

    `fresh` makes it this one, and removes an earlier run's results. A folder that another process is using is left
    alone.
    """
    from filelock import FileLock, Timeout

    from headlens.analyses.checkpoints import LOCK_FILE, RESULT_FILE, RUN_FILE

    folder.mkdir(parents=True, exist_ok=True)
    try:
        # the lock that a checkpoint takes
        with FileLock(folder / LOCK_FILE, timeout=0):
            if fresh:
                derived = (name for name, _ in (*DERIVED, *VERIFIED))
                for name in (RESULT_FILE, *derived, *_SOME_RUNS):
                    (folder / name).unlink(missing_ok=True)
            if fresh or not (folder / RUN_FILE).exists():
                keep(files, folder)
    except Timeout:
        return


def write_results(headmap: "HeadMap", files: Mapping[str, bytes], folder: Path) -> list[str]:
    """Write the map in every form a reader may want, beside what it is of; returns the names of the map's files.

    Equal maps make equal files.
    """
    from headlens.analyses.checkpoints import RESULT_FILE
    from headlens.export import export

    keep(files, folder)
    headmap.save(folder / RESULT_FILE)
    for name, form in DERIVED:
        export(headmap, form, folder / name)
    return [RESULT_FILE, *(name for name, _ in DERIVED)]


def keep(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what a run is of; files that are there already with the same contents are left alone."""
    from headlens.analyses.atomic import write_bytes

    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def read_result(path: Path) -> "HeadMap":
    """Read the map of a run folder, or of a .safetensors or .json file that headlens wrote.

    ValueError says what was found instead.
    """
    from headlens.analyses.checkpoints import RESULT_FILE
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.headmap_json import from_json

    if path.is_dir():
        if (path / GAZE_FILE).is_file():
            raise ValueError(f"{path} is a run of `headlens look`, which has no head map; open its report.html.")
        if not (path / RESULT_FILE).is_file():
            began = (path / "chunks").is_dir()
            hint = "its run is not finished; run the same command again" if began else "it is not a run"
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
    # a temporary file of a process that was killed starts with a dot
    return len(list((folder / "chunks").glob("[!.]*.safetensors")))
