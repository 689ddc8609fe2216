"""Measure the gates of trained models of scenes: `gates_tiny_vlm.py FOLDER ... [--twin FOLDER ...]`.

FOLDER is what train_tiny_vlm.py made, --twin what it made with --without-prior. Every figure is over scenes that no
training and no test uses, with an interval over scenes and the range among seeds of scenes; with several models there
is a table over them too. Tables are printed as Markdown, and written with all figures as CSV and as JSON beside it.

Where one of the gates G1, G2 and G3 fails, nothing measured further down means anything: this is said loudly,
all figures are written nevertheless, and the command ends with 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from headlens.analyses.vision.gates.gates import Report, across, gates_of, gates_of_twin
from headlens.analyses.vision.gates.setting import Setting
from headlens.analyses.vision.gates.tables import as_csv, as_json, printed
from headlens.analyses.vision.scenes.scenes import PRIOR, without_prior
from headlens.models import load

FIRST_SEED = 101


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--twin", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=200, help="of each seed")
    parser.add_argument("--seeds", type=int, default=5, help=f"how many, from {FIRST_SEED} on")
    parser.add_argument("--resamples", type=int, default=1000, help="of scenes, for each interval")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("gates.csv"))
    given = parser.parse_args(arguments)
    if given.scenes < 2 or given.seeds < 1 or given.out.suffix != ".csv":
        parser.error("--scenes must be 2 or more, --seeds 1 or more, and --out a .csv file")
    torch.set_num_threads(given.threads)
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + given.seeds))
    reports: dict[bool, list[Report]] = {False: [], True: []}
    for twin, folders in ((False, given.folders), (True, given.twin)):
        for folder in folders:
            report = _measured(folder, twin, seeds, given.scenes, given.resamples)
            reports[twin].append(report)
            sys.stdout.write(printed(report) + "\n")
            sys.stdout.flush()
            _write(given.out, [*reports[False], *reports[True]])
    overall = [across(own) for own in reports.values() if len(own) > 1]
    for one in overall:
        sys.stdout.write(printed(one) + "\n")
    everything = [*reports[False], *reports[True]]
    _write(given.out, [*everything, *overall])
    broken = [(one.model, gate) for one in everything for gate in one.broken]
    for model, gate in broken:
        sys.stderr.write(f"\nGATE {gate.name} {gate.verdict.upper()} for {model}: {gate.claim}. {gate.reading}.\n")
    if broken:
        sys.stderr.write("\nNothing measured further down means anything for these models.\n")
    return 1 if broken else 0


def _measured(folder: Path, twin: bool, seeds: tuple[int, ...], scenes: int, resamples: int) -> Report:
    model, start = load(folder, device="cpu"), time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{folder.name} {time.monotonic() - start:.0f} s: {what}\n")

    world = without_prior(PRIOR) if twin else PRIOR
    setting = Setting(model, seeds, scenes, world, resamples, say=say)
    return (gates_of_twin if twin else gates_of)(setting)


def _write(path: Path, reports: Sequence[Report]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, as_csv(reports)), (path.with_suffix(".json"), as_json(reports))):
        beside = target.with_name(f".{target.name}.part")
        beside.write_text(text)
        os.replace(beside, target)


if __name__ == "__main__":
    sys.exit(main())
