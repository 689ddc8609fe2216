"""Edits as frozen values: what to change in a model's heads. `hooks/apply.py` says how each one acts.

Heads are written `"L23H3"`, `(23, 3)`, a list of either, or `"all"`. At the sites `rot_k` and `v` a head is a
key/value head, which with grouped queries serves several query heads. Positions count tokens from 0, padding
included, one number for all prompts or one per prompt; negative ones are refused, because on a padded batch
they would mean different tokens. In cached generation an edit acts on the same absolute positions as in one
full forward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headlens.hooks.sites import Head, check_site

Heads = str | Head | tuple[int, int] | Sequence[Any]
Pos = int | Sequence[int] | Tensor | None
ABLATIONS = ("zero", "mean", "mean_positional", "resample")
HEAD_SITES = ("z", "result", "rot_q", "rot_k", "v")


@dataclass(frozen=True, eq=False)
class Patch:
    """Replace a head's activation by its value in another run (activation patching, 2202.05262).

    `source` is the cache of the other run (`run_with_cache`), or the site's own tensor for the one layer patched.
    Without `pos` every position that the source covers is replaced. At `pattern` and `attn_scores`, `pos` is the
    query position and whole rows are replaced.
    """

    heads: Heads
    source: Mapping[str, Tensor] | Tensor
    site: str = "z"
    pos: Pos = None

    def __post_init__(self) -> None:
        check_site(self.site)
        _check_head_site(self.site, (*HEAD_SITES, "pattern", "attn_scores"))
        check_positions(self.pos)


@dataclass(frozen=True, eq=False)
class Ablate:
    """Remove what a head says: `zero`, the `mean` of a reference run over prompts and positions, its
    `mean_positional` (over prompts, per position), or `resample` (another prompt of the reference, drawn by `seed`).

    `reference` is the cache of a run of the reference prompts; every kind but `zero` needs one.
    """

    heads: Heads
    how: str = "zero"
    reference: Mapping[str, Tensor] | None = None
    site: str = "z"
    pos: Pos = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_site(self.site)
        _check_head_site(self.site, HEAD_SITES)
        check_positions(self.pos)
        if self.how not in ABLATIONS:
            raise ValueError(f"Unknown ablation {self.how!r}; the kinds are {', '.join(ABLATIONS)}.")
        if self.how != "zero" and self.reference is None:
            raise ValueError(
                f"Ablate(how={self.how!r}) needs reference=, the cache of a run of reference prompts: "
                f"_, cache = model.run_with_cache(tokens, names_filter=[{self.site!r}])."
            )


@dataclass(frozen=True, eq=False)
class Gate:
    """Multiply a head's z by `gamma`: 0 silences it, 1 leaves it, more than 1 reinforces it."""

    heads: Heads
    gamma: float
    pos: Pos = None

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if not torch.isfinite(torch.tensor(float(self.gamma))):
            raise ValueError(f"Gate({self.heads!r}) has gamma={self.gamma}; give a finite number.")


@dataclass(frozen=True, eq=False)
class Call:
    """A function of your own at a site, in TransformerLens's form: `function(tensor, hook)` returns the new tensor,
    or None to keep (also after changing it in place). `name` is a hook name such as `"blocks.9.attn.hook_pattern"`,
    or a predicate on names. `hook` has `.name`, `.layer()`, `.ctx`, `.query_start` and `.key_start`.
    """

    name: str | Callable[[str], bool]
    function: Callable[..., Tensor | None]


def _check_head_site(site: str, allowed: tuple[str, ...]) -> None:
    if site not in allowed:
        raise ValueError(
            f"Site {site!r} has no heads to edit this way; choose one of {', '.join(allowed)}, or use Call."
        )


def check_positions(pos: Any) -> None:
    """ValueError unless `pos` is None, one whole number from 0, or one for each prompt."""
    if pos is None:
        return
    try:
        wanted = torch.as_tensor(pos)
    except (TypeError, ValueError, RuntimeError):
        wanted = torch.tensor(torch.nan)
    if wanted.ndim > 1 or wanted.dtype.is_floating_point or wanted.dtype == torch.bool:
        raise ValueError(f"pos={pos!r} was given; expected one whole number, or one for each prompt.")
    if (wanted < 0).any():
        raise ValueError(f"Position {pos!r} is negative; count from the first token, so that padded prompts agree.")
