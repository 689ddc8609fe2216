"""Fixing imbalanced attention (2501.12206): PAI with its strength told apart by what the vision tower looks at.

    s_j <- s_j + alpha |s_j|     j a local patch
    s_j <- s_j + beta  |s_j|     j a patch that sums its picture up
    s_j <- s_j                   all others

in the newest row of each call, as for `pai`; `patch_sets.py` says which patches are which.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.analyses.vision.relatives.image_scores import ImageScores, check_finite, chosen_heads, image_positions
from headlens.analyses.vision.relatives.pai import by_size
from headlens.analyses.vision.relatives.patch_sets import at_patches, check_share, of_cls, patch_sets, vision_layers
from headlens.hooks.clock import Clock
from headlens.hooks.edits import Call, Heads, Pos
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.taps import Where


def imbalanced(
    model: Model,
    alpha: float = 0.7,
    beta: float = 0.3,
    *,
    share: float = 0.25,
    layers: Sequence[int] | None = None,
    heads: Heads | None = None,
    since: Pos = None,
) -> tuple[Call, Call]:
    """Two edits, to be used together: one notes what each picture's CLS token looks at, one raises scores by it
    (2501.12206): `with model.edited(*imbalanced(model)): ...`.

    Sets are found anew in each run, from the pictures of that run, so samples may run together, with several pictures
    each; `token_sets` shows them. A run without any picture inside the edit has nothing to note, which is a
    RuntimeError at its end if no other run had one. What is said of `pai` about rows, caches and `since` holds here.

    The paper calls this modulation by head, by how much each head depends on what is seen; in the released code, and
    here, all heads are alike. There `--top_token_ratio` and `--spatial` are parsed and not used, and it takes one
    sample at a time; its optional spatial patches are left out here. Published strengths go over a cliff between 0.5
    (no effect) and 0.7 (answers of twice the length): report recall and length beside whatever this is used for.

    Args:
        alpha: the strength at local patches; 0 changes nothing there.
        beta: the strength at summary patches: 0.3 in the released code, 0.4 in the paper's tables.
        share: how many of a picture's patches are local at most, 0 to 1.
        layers, heads, since: as for `pai`.

    Raises:
        ValueError: for what `pai` refuses, a vision tower without a CLS token (SigLIP), a share outside of 0 to 1; in a
            run whose image tokens are not one for each patch.
    """
    check_finite(alpha=alpha, beta=beta)
    check_share(share)
    (token,) = image_tokens(model).ids
    sets = _Sets(model, token, vision_layers(model), alpha, beta, share)
    names = {str(site) for site in sets.sites}
    raised = ImageScores(model, chosen_heads(model, layers, heads), sets.strength, by_size, since)
    return Call(names.__contains__, sets.note), raised.edit()


@dataclass(frozen=True, eq=False)
class _Sets:
    """What the vision tower last saw, until the run that it was seen for has taken it; each later run needs its own.

    `generate` asks the tower before the run starts, so this cannot be in the memory of the run's clock.
    """

    model: Model
    token: int
    sites: tuple[Site, Site]
    alpha: float
    beta: float
    share: float
    seen: dict[str, Float[Tensor, "picture patch"]] = field(default_factory=dict)

    def note(self, pattern: Float[Tensor, "picture head query key"], hook: Where) -> None:
        self.seen[hook.name] = of_cls(pattern)

    def strength(self, clock: Clock) -> Float[Tensor, "batch pos"]:
        image = image_positions(clock, self.token)
        known = clock.memory.setdefault((self, "strength"), {})
        if "prompt" not in known:
            known["prompt"] = self._of_prompt(image)
        prompt = known["prompt"]
        generated = image.shape[1] - prompt.shape[1]
        return torch.cat([prompt, prompt.new_zeros(len(prompt), generated)], 1) if generated else prompt

    def _of_prompt(self, image: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        if not bool(image.any()):
            return torch.zeros(image.shape, device=image.device)
        if not self.seen:
            raise ValueError(
                "There are image tokens, and no picture was seen inside the edit; give pixel_values, and start the run "
                "inside the edit."
            )
        first, last = (self.seen[str(site)] for site in self.sites)
        self.seen.clear()
        local, summary = patch_sets(first, last, self.share)
        return at_patches(image, self.alpha * local + self.beta * summary)
