"""What a patching sweep does, as a checked value: everything that decides its numbers."""

from dataclasses import dataclass
from typing import Any

from headlens.analyses.metrics import named
from headlens.hooks.record import parse_bytes
from headlens.hooks.sites import check_site

DIRECTIONS = ("denoising", "noising")
AXES = (("layer", "head"), ("layer", "head", "pos"))
SITES = ("z",)


@dataclass(frozen=True)
class Plan:
    """One sweep's choices. ValueError names the first that is not available, and what is."""

    site: str
    axes: tuple[str, ...]
    metric: str
    direction: str
    memory: str | int

    def __post_init__(self) -> None:
        check_site(self.site)
        if self.site not in SITES:
            raise ValueError(
                f"A sweep over {self.site!r} is not available; the sites of a sweep are {', '.join(SITES)}."
            )
        if self.axes not in AXES:
            known = " or ".join(",".join(axes) for axes in AXES)
            raise ValueError(f"Axes {','.join(self.axes)!r} are not available; give {known}.")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"Unknown direction {self.direction!r}; give {' or '.join(DIRECTIONS)}.")
        named(self.metric)
        parse_bytes(self.memory)

    def described(self) -> dict[str, Any]:
        """The plan as plain values, for a result's provenance."""
        return {
            "site": self.site,
            "axes": list(self.axes),
            "metric": self.metric,
            "direction": self.direction,
        }

    @property
    def by_position(self) -> bool:
        """Whether each position is patched on its own."""
        return "pos" in self.axes
