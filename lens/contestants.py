"""Who sweeps in a bench: headlens and its peers, each by its own means, in a file of its own (`contestant_*.py`)."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from headlens.choice import one_of

if TYPE_CHECKING:
    from headlens.bench_job import Job, Sweep

# Contestants, and the distribution that does the work.
PACKAGES = {
    "headlens": "headlens",
    "headlens-verify": "headlens",
    "transformer-lens": "transformer-lens",
    "plain-hooks": "transformers",
    "nnsight": "nnsight",
    "pyvene": "pyvene",
}
PEERS = tuple(who for who in PACKAGES if who != "headlens")


def parse_peers(names: str) -> tuple[str, ...]:
    """Read "transformer-lens,plain-hooks"; "" is nobody. ValueError for an unknown name, with the nearest one."""
    return tuple(dict.fromkeys(one_of("peer", name.strip(), PEERS) for name in names.split(",") if name.strip()))


def version_of(who: str) -> str | None:
    """The version of the package that a contestant runs on, or None if it is not installed."""
    try:
        return version(PACKAGES[who])
    except PackageNotFoundError:
        return None


def prepare(job: "Job") -> "Sweep":
    """Load the model the contestant's own way and return the function that sweeps some cells, timed."""
    module = import_module(f"headlens.contestant_{job.who.replace('-', '_')}")
    own: Callable[[Job], Sweep] = module.prepare
    return own(job)
