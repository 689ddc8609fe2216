"""Gazes of a run of `headlens look` or `redistribute`, read back from its folder with the pictures that they are of."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from headlens.analyses.vision.gaze import Gaze
from headlens.runs import AFTER_FILE, BEFORE_FILE, GAZE_FILE

_REPORT = "report.html"
# The one list of this name in a page of gazes; base64 has no bracket in it.
_PICTURES = re.compile(r'"pictures":(\[[^\]]*\])')
_PNG = "data:image/png;base64,"


def gazes_of_run(folder: Path) -> tuple[dict[str, Gaze], list[np.ndarray]]:
    """The gazes of a run by name ("" for one alone), and the prompt's pictures as the model saw them.

    ValueError for a folder that holds no such run, or whose page is gone.
    """
    for names in ({"": GAZE_FILE}, {"before": BEFORE_FILE, "after": AFTER_FILE}):
        if all((folder / file).is_file() for file in names.values()):
            gazes = {name: Gaze.load(folder / file) for name, file in names.items()}
            return gazes, _pictures_of(folder / _REPORT)
    raise ValueError(
        f"{folder} holds no gazes; give the folder of a finished run of `headlens look` or `headlens redistribute`."
    )


def _pictures_of(report: Path) -> list[np.ndarray]:
    """The pictures of a run's page: as the model saw them, which to make again would take its processor."""
    found = _PICTURES.search(report.read_text(encoding="utf-8")) if report.is_file() else None
    addresses = [] if found is None else json.loads(found[1])
    if not addresses or not all(one.startswith(_PNG) for one in addresses):
        raise ValueError(f"{report} holds no pictures; run the same command again, which writes it anew.")
    coded = [base64.b64decode(one.removeprefix(_PNG)) for one in addresses]
    return [np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), dtype=np.uint8) for one in coded]
