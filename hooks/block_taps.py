"""What the hooks of one block do for the sites outside its attention function."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headlens.hooks.clock import Clock
from headlens.hooks.discover import Layer
from headlens.hooks.output import first_tensor, replace_first
from headlens.hooks.sites import SITE_AXES
from headlens.hooks.taps import Tap


@dataclass(frozen=True, eq=False)
class BlockTaps:
    """The taps of one block, by site."""

    at: Mapping[str, list[Tap]]
    clock: Clock
    layer: Layer
    n_heads: int
    entered: dict[str, Tensor] = field(default_factory=dict)

    def _run(self, site: str, tensor: Tensor) -> Tensor:
        if tensor.ndim == len(SITE_AXES[site]) - 1:
            # Qwen's image encoders have the patches of all pictures in one row, without a batch
            return self._run(site, tensor[None])[0]
        for tap in self.at.get(site, []):
            tensor = tap(tensor, self.clock.past, self.clock.past)
        return tensor

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            args = (self._run("resid_pre", args[0]), *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": self._run("resid_pre", kwargs["hidden_states"])}
        self.entered["resid_pre"] = args[0] if args else kwargs["hidden_states"]
        return args, kwargs

    def on_projection(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        z = args[0].unflatten(-1, (self.n_heads, -1))
        result = torch.einsum("...hd,hdm->...hm", z, self.layer.output_weights(self.n_heads))
        edited = self._run("result", result)
        return output if edited is result else output + (edited - result).sum(-2)

    def on_addition(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return replace_first(output, self._run("attn_out", first_tensor(output)))

    def on_middle(self, module: nn.Module, args: tuple, output: Any) -> Any:
        addition = first_tensor(output)
        middle = self.entered["resid_pre"] + addition
        edited = self._run("resid_mid", middle)
        if edited is middle:
            return output
        # the block adds its input again, which leaves an edit to 0 at exactly 0
        return replace_first(output, torch.where(edited == middle, addition, edited - self.entered["resid_pre"]))

    def on_mlp(self, module: nn.Module, args: tuple, output: Any) -> Any:
        flat = first_tensor(output)
        return replace_first(output, self._run("mlp_out", flat.view_as(self.entered["resid_pre"])).view_as(flat))

    def leave(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return replace_first(output, self._run("resid_post", first_tensor(output)))
