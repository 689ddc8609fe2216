"""Which keys each row of an attention call sees, said in a few numbers where that is possible."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """Row i stands at key `past` + i. It sees a key where all of this says so.

    `causal`: up to itself. `window`: the newest so many of these. `first` and `end`: of each prompt, from its first key
    up to before its last one's successor (padding in front or behind). `mask`: as it says, for each row and key.
    """

    causal: bool = True
    past: int = 0
    window: int | None = None
    first: Int[Tensor, " batch"] | None = None
    end: Int[Tensor, " batch"] | None = None
    mask: Bool[Tensor, "#batch #head #row key"] | None = None

    def allowed(self, rows: int, keys: int, device: torch.device) -> Bool[Tensor, "#batch #head row key"]:
        """The same as one mask."""
        at = torch.arange(self.past, self.past + rows, device=device)[:, None]
        key = torch.arange(keys, device=device)
        seen = torch.ones(1, 1, rows, keys, dtype=torch.bool, device=device)
        if self.causal:
            seen = seen & (key <= at)
        if self.window is not None:
            seen = seen & (at - key < self.window)
        if self.first is not None:
            seen = seen & (key >= self.first[:, None])[:, None, None]
        if self.end is not None:
            seen = seen & (key < self.end[:, None])[:, None, None]
        return seen if self.mask is None else seen & self.mask

    def of_prompts(self, prompts: slice) -> "Seen":
        """The same for some of the prompts."""
        cut = {name: value[prompts] for name in ("first", "end") if (value := getattr(self, name)) is not None}
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[prompts]
        return replace(self, mask=mask, **cut)
