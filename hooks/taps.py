"""Taps: functions that see, and may replace, the tensor at one site while a model runs.

Every edit, recording and user hook becomes taps. `tapped(hf, towers, taps)` installs them for the length of a
`with` block and removes every trace of them afterwards. A tap that was asked for and never fired is an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headlens.hooks.discover import Layer, Tower
from headlens.hooks.intercept import Attention, listener_of, listening, placed
from headlens.hooks.output import first_tensor, replace_first
from headlens.hooks.sites import ATTENTION_SITES, Site
from headlens.kernels.reference import attention_pattern, weighted_values


@dataclass(frozen=True)
class Where:
    """What a tap is told: the site, and which absolute positions the first row and first key stand for.

    In a plain forward both are 0; in a cached decode step `query_start` is the number of tokens already read, and
    with a sliding-window cache `key_start` is the position of the oldest key that is left. `ctx` is a dict that a
    hook may keep things in for the length of the run.
    """

    site: Site
    query_start: int = 0
    key_start: int = 0
    ctx: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.site)

    def layer(self) -> int:
        return self.site.layer


# Returns the tensor to go on with, or None if there was nothing for it to do here.
TapFunction = Callable[[Tensor, Where], Tensor | None]


@dataclass(frozen=True, eq=False)
class Tap:
    """One function at one site; `fired` gains an entry each time it really acted."""

    site: Site
    function: TapFunction
    asked_by: str
    fired: list[bool] = field(default_factory=list)
    ctx: dict[str, Any] = field(default_factory=dict)

    def __call__(self, tensor: Tensor, query_start: int, key_start: int) -> Tensor:
        answer = self.function(tensor, Where(self.site, query_start, key_start, self.ctx))
        if answer is None:
            return tensor
        self.fired.append(True)
        if answer.shape != tensor.shape:
            raise ValueError(
                f"{self.asked_by} returned a tensor of shape {tuple(answer.shape)} at {self.site}, "
                f"where {tuple(tensor.shape)} ({' '.join(self.site.axes)}) was expected."
            )
        return answer.to(tensor.dtype)


@contextmanager
def tapped(hf: PreTrainedModel, towers: Mapping[str, Tower], taps: Sequence[Tap]) -> Iterator[None]:
    """Run `hf` with these taps in place; later taps of a site see what earlier ones made of it."""
    by_layer: dict[tuple[str, int], dict[str, list[Tap]]] = defaultdict(lambda: defaultdict(list))
    for tap in taps:
        _check_available(tap, towers)
        by_layer[tap.site.tower, tap.site.layer][tap.site.name].append(tap)
    clock = _Clock()
    with ExitStack() as stack:
        stack.enter_context(listening(hf))
        _hooked(stack, hf.register_forward_pre_hook(clock.read, with_kwargs=True))
        for (tower, index), at in by_layer.items():
            layer = towers[tower].layers[index]
            if any(site in at for site in ATTENTION_SITES):
                # a listener already in place (an outer `with`) runs its taps first
                outer = getattr(listener_of(layer.attention), "sites", {})
                sites = {site: [*outer.get(site, []), *at.get(site, [])] for site in ATTENTION_SITES}
                stack.enter_context(placed({layer.attention: _Listening(sites, clock, towers[tower].is_cross)}))
            _install(stack, layer, _Residual(at, clock, layer, towers[tower].n_heads))
        yield
        silent = sorted({f"{tap.asked_by} at {tap.site}" for tap in taps if not tap.fired})
        if silent:
            raise RuntimeError(
                f"{silent[0]} never took effect{f' (and {len(silent) - 1} more)' if len(silent) > 1 else ''}: "
                "the model was not run inside the edit, or did not reach that layer or position."
            )


class _Clock:
    """Reads from each forward call of the model how many tokens the cache already holds."""

    def __init__(self) -> None:
        self.past = 0

    def read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        cache = kwargs.get("past_key_values")
        self.past = int(cache.get_seq_length()) if cache is not None else 0


def _check_available(tap: Tap, towers: Mapping[str, Tower]) -> None:
    site = tap.site
    if site.tower not in towers:
        raise ValueError(f"{site} names the tower {site.tower!r}; this model has {', '.join(towers)}.")
    tower = towers[site.tower]
    if site.layer >= len(tower.layers):
        raise ValueError(f"{site} does not exist: the model has layers 0..{len(tower.layers) - 1}.")
    layer = tower.layers[site.layer]
    if not layer.has(site.name, tower.is_cross):
        raise ValueError(
            f"{site} does not exist in {type(layer.block).__name__}: its block has no such point (parallel blocks add "
            "attention and MLP at once; cross-attention has no residual sites of its own)."
        )


@dataclass(frozen=True, eq=False)
class _Listening:
    """The attention of one layer with its taps."""

    sites: Mapping[str, Sequence[Tap]]
    clock: _Clock
    is_cross: bool

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        queries, keys = call.query.shape[2], call.key.shape[2]
        # keys end with the newest token, except in a static cache, which is longer than what was read
        key_start = 0 if self.is_cross else max(self.clock.past + queries - keys, 0)
        call = call.with_inputs(
            self._heads_first("rot_q", call.query, key_start),
            self._heads_first("rot_k", call.key, key_start),
            self._heads_first("v", call.value, key_start),
        )
        if not (self.sites["attn_scores"] or self.sites["pattern"]):
            return self._run("z", call.z(), key_start), None
        before = call.scores()
        scores = self._run("attn_scores", before, key_start)
        _refuse_empty_rows(before, scores)
        pattern = self._run("pattern", attention_pattern(scores, call.sinks), key_start)
        return self._run("z", weighted_values(pattern, call.value), key_start), pattern

    def _run(self, site: str, tensor: Tensor, key_start: int) -> Tensor:
        for tap in self.sites[site]:
            tensor = tap(tensor, self.clock.past, key_start)
        return tensor

    def _heads_first(self, site: str, tensor: Tensor, key_start: int) -> Tensor:
        """Taps see positions before heads, the attention function has heads before positions."""
        return self._run(site, tensor.transpose(1, 2), key_start).transpose(1, 2) if self.sites[site] else tensor


def _refuse_empty_rows(before: Tensor, after: Tensor) -> None:
    emptied = (after.amax(-1) == -torch.inf) & (before.amax(-1) != -torch.inf)
    if emptied.any():
        prompt, head, row = (int(index) for index in emptied.nonzero()[0])
        raise ValueError(
            f"An edit of attn_scores left query {row} of head {head} (prompt {prompt}) no key to attend to; "
            "leave at least one key of every row above -inf."
        )


@dataclass(frozen=True, eq=False)
class _Residual:
    """What the hooks of one block do for the sites outside its attention function."""

    at: Mapping[str, list[Tap]]
    clock: _Clock
    layer: Layer
    n_heads: int
    entered: dict[str, Tensor] = field(default_factory=dict)

    def _run(self, site: str, tensor: Tensor) -> Tensor:
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
        result = torch.einsum("bphd,hdm->bphm", z, self.layer.output_weights(self.n_heads))
        edited = self._run("result", result)
        return output if edited is result else output + (edited - result).sum(2)

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


def _install(stack: ExitStack, layer: Layer, taps: _Residual) -> None:
    """Hook the modules that the taps' sites are at; the stack takes the hooks away."""
    wanted = {site for site, some in taps.at.items() if some}
    hooks = {
        "result": (layer.output_projection, taps.on_projection),
        "attn_out": (layer.attention_addition, taps.on_addition),
        "resid_mid": (layer.middle, taps.on_middle),
        "mlp_out": (layer.mlp, taps.on_mlp),
        "resid_post": (layer.block, taps.leave),
    }
    if wanted & {"resid_pre", "resid_mid", "mlp_out"}:
        _hooked(stack, layer.block.register_forward_pre_hook(taps.enter, with_kwargs=True))
    for site, (module, hook) in hooks.items():
        if site in wanted and module is not None:
            _hooked(stack, module.register_forward_hook(hook))


def _hooked(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)
