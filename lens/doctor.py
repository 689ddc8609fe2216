"""What this machine has and what headlens would use of it, as plain values for a person to read."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from headlens.cache import DamagedCache, cache_folder, check, model_folder
from headlens.catalogue import CATALOGUE
from headlens.fetch import repair_command


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `found` is a sentence's worth, with what to do where it is not `fine`."""

    topic: str
    found: str
    fine: bool = True


def diagnose() -> list[Finding]:
    """Look at Python, the packages, the processors, memory, the cache and its models; nothing is changed.

    Every cached model is read whole, which takes about a second.
    """
    python = f"{platform.python_version()} ({sys.executable}) on {platform.system()} {platform.machine()}"
    return [
        Finding("python", python),
        *_packages(),
        *_processors(),
        Finding("memory", _memory()),
        _cache(),
        *(_model(name) for name in CATALOGUE),
        *_choices(),
    ]


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("headlens") or []]
    # Extras are whoever asked for them's own affair; triton's marker rules machines out that cannot have it.
    wanted = [requirement for requirement in wanted if not requirement.marker or requirement.marker.evaluate()]
    findings = [Finding("headlens", version("headlens"))]
    for requirement in wanted:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing = f"missing; run `pip install '{requirement.name}{requirement.specifier}'`"
            findings.append(Finding(requirement.name, missing, fine=False))
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        advice = "" if fits else f"; headlens needs {requirement.specifier}"
        findings.append(Finding(requirement.name, found + advice, fine=fits))
    return findings


def _processors() -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [Finding("CPU", f"{cores} cores, torch uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        findings.append(Finding(f"GPU {index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"))
    return findings or [Finding("GPU", "none that torch can use")]


def _memory() -> str:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return "unknown on this system"
    return f"{total / 2**30:.1f} GiB"


def _cache() -> Finding:
    folder = cache_folder()
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = f"{folder}, {shutil.disk_usage(existing).free / 1e9:.1f} GB free"
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding("cache", free)
    return Finding("cache", f"{folder} is not writable; set HEADLENS_CACHE to a folder of your own", fine=False)


def _model(name: str) -> Finding:
    folder = model_folder(name)
    if not Path(folder).exists():
        return Finding(name, f"not fetched; `headlens fetch {name}` does it, and so does its first use")
    try:
        check(folder, repair_command(name))
    except DamagedCache as error:
        return Finding(name, str(error), fine=False)
    return Finding(name, "ready and intact")


def _choices() -> list[Finding]:
    from headlens.device import default_device, default_dtype
    from headlens.kernels.dispatch import on_device

    device, dtype = default_device(), str(default_dtype()).removeprefix("torch.")
    findings = [Finding("would use", f"{device}, {dtype}")]
    try:
        choice = on_device(device)
    except ValueError as error:
        return [*findings, Finding("kernels", str(error), fine=False)]
    return [*findings, Finding("kernels", f"{'Triton' if choice.kernel else 'plain torch'} ({choice.why})")]
