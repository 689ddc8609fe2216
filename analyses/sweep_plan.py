"""What a patching sweep does, as a checked value: everything that decides its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headlens.analyses.metrics import AnyMetric, Metric, chosen
from headlens.analyses.positions import Position
from headlens.hooks.edits import ABLATIONS
from headlens.hooks.record import parse_bytes
from headlens.hooks.sites import SITE_AXES, Head, check_site, parse_head

DIRECTIONS = ("denoising", "noising")
SOURCES = ("other", *ABLATIONS)
# Which axes a sweep over a site may have: layers or heads, and then positions if any.
LAYERS = (("layer",), ("layer", "pos"))
HEADS = (("layer", "head"), ("layer", "head", "pos"))
SETS = (("heads",), ("heads", "pos"))
ENTRIES = (("layer", "head", "query", "key"),)

HeadSet = tuple[Head, ...]


@dataclass(frozen=True)
class Plan:
    """One sweep's choices. ValueError names the first that is not available, and what is."""

    site: str
    axes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    direction: str
    source: str = "other"
    positions: tuple[Position, ...] | None = None
    heads: tuple[HeadSet, ...] | None = None
    seed: int = 0
    memory: str | int = "1GiB"

    def __post_init__(self) -> None:
        check_site(self.site)
        _check_axes(self.site, self.axes, self.heads is not None)
        _check_one_of("direction", self.direction, DIRECTIONS)
        _check_one_of("source", self.source, SOURCES)
        if self.source == "mean" and self.site in ("attn_scores", "pattern"):
            raise ValueError(f"Rows of {self.site!r} have different keys, so they have no mean; give mean_positional.")
        if self.positions is not None and "query" in self.axes:
            raise ValueError("A sweep over query and key patches every entry; leave positions out.")
        parse_bytes(self.memory)

    @property
    def engine_site(self) -> str:
        """The site that is patched: a head's result is its z times its own weights, so patching either is the same."""
        return "z" if self.site == "result" else self.site

    @property
    def by_position(self) -> bool:
        """Whether positions are patched one after the other."""
        return "pos" in self.axes or "query" in self.axes

    def described(self) -> dict[str, Any]:
        """The plan as plain values, for a result's provenance."""
        names = [metric.name for metric in self.metrics]
        keys = [metric.key for metric in self.metrics]
        sets = self.heads and [[str(head) for head in some] for some in self.heads]
        return {
            "site": self.site,
            "axes": [*self.axes],
            "metric": names[0] if len(names) == 1 else names,
            **({"metric_keys": keys} if any(keys) else {}),
            "direction": self.direction,
            "source": self.source,
            **({"seed": self.seed} if self.source == "resample" else {}),
            **({"positions": [*self.positions]} if self.positions is not None else {}),
            **({"heads": sets} if sets is not None else {}),
        }


def plan(
    site: str = "z",
    axes: Sequence[str] | None = None,
    metric: AnyMetric | Sequence[AnyMetric] = "logit_diff",
    direction: str = "denoising",
    source: str = "other",
    positions: Position | Sequence[Position] | None = None,
    heads: Sequence[Any] | None = None,
    seed: int = 0,
    memory: str | int = "1GiB",
) -> Plan:
    """A plan from what people write: see `headlens.patch_sweep` for the choices."""
    check_site(site)
    sets = None if heads is None else _sets(heads)
    if axes is None:
        axes = SETS[0] if sets is not None else HEADS[0] if has_heads(site) else LAYERS[1]
    several = (positions,) if isinstance(positions, int | str) else positions
    where = None if several is None else tuple(several)
    return Plan(site, tuple(axes), chosen(metric), direction, source, where, sets, seed, memory)


def has_heads(site: str) -> bool:
    """Whether the site has a value for each head (or key/value head)."""
    return bool({"head", "kv_head"} & {*SITE_AXES[site]})


def axes_of(site: str) -> tuple[tuple[str, ...], ...]:
    """The axes that a sweep over this site may have."""
    entries = ENTRIES if "key" in SITE_AXES[site][2:] else ()
    return (*HEADS, *SETS, *LAYERS, *entries) if has_heads(site) else LAYERS


def _sets(heads: Sequence[Any]) -> tuple[HeadSet, ...]:
    """One set, as a list of heads, or several, as a list of lists."""
    given = [heads] if isinstance(heads, str) else list(heads)
    if not given:
        raise ValueError("heads=[] names no heads; give at least one, such as ['L23H3', 'L20H0'].")
    single = all(isinstance(each, str | Head) for each in given)
    return tuple(tuple(sorted({parse_head(label) for label in some})) for some in ([given] if single else given))


def _check_axes(site: str, axes: tuple[str, ...], sets: bool) -> None:
    known = axes_of(site)
    if axes not in known:
        choices = ", ".join(",".join(some) for some in known)
        raise ValueError(f"Axes {','.join(axes)!r} are not available at {site!r}; its axes are {choices}.")
    if "heads" in axes and not sets:
        raise ValueError(f"Axes {','.join(axes)!r} need heads=, such as [['L23H3', 'L20H0']].")
    if sets and "heads" not in axes:
        raise ValueError(f"Axes {','.join(axes)!r} do not go with heads=; give heads or heads,pos.")


def _check_one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"Unknown {what} {given!r}; give {', '.join(known[:-1])} or {known[-1]}.")
