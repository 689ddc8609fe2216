"""Taps, recalibrations and watchers installed on a model for the length of a `with` block.

Every trace of them is removed afterwards. One that was asked for and never acted is an error.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from headlens.hooks.attention_taps import AttentionTaps, Watch
from headlens.hooks.block_taps import BlockTaps
from headlens.hooks.clock import Clock, ticking
from headlens.hooks.conflicts import refuse_conflicts
from headlens.hooks.discover import Layer, Tower
from headlens.hooks.group_masks import note_massive
from headlens.hooks.groups import Massive
from headlens.hooks.intercept import listener_of, listening, placed
from headlens.hooks.report import Report
from headlens.hooks.sites import ATTENTION_SITES
from headlens.hooks.steps import Step
from headlens.hooks.taps import Tap

Act = Tap | Step | Watch


@contextmanager
def tapped(
    hf: PreTrainedModel, towers: Mapping[str, Tower], acts: Sequence[Act], report: Report | None = None
) -> Iterator[None]:
    """Run `hf` with these in place; later taps of a site see what earlier ones made of it."""
    by_layer: dict[tuple[str, int], list[Act]] = defaultdict(list)
    for act in acts:
        _check_available(act, towers)
        by_layer[act.site.tower, act.site.layer].append(act)
    with ExitStack() as stack:
        stack.enter_context(listening(hf))
        clock = stack.enter_context(ticking(hf))
        for (tower, index), own in by_layer.items():
            layer, at = towers[tower].layers[index], _by_site(own)
            if any(not isinstance(act, Tap) or act.site.name in ATTENTION_SITES for act in own):
                outer = listener_of(layer.attention)
                whole = _listener(own, at, outer, index, towers[tower], clock, report)
                stack.enter_context(placed({layer.attention: whole}))
                _hooked(stack, layer.attention.register_forward_pre_hook(whole.begin))
            counted = Clock() if towers[tower].reads_pictures else clock
            _install(stack, layer, BlockTaps(at, counted, layer, towers[tower].n_heads))
            parts = [part for act in own if isinstance(act, Step) for part in act.parts]
            for group in {part for part in parts if isinstance(part, Massive)}:
                note = partial(_note, group, index, clock)
                _hooked(stack, layer.block.register_forward_pre_hook(note, with_kwargs=True))
        yield
        silent = sorted({f"{act.asked_by} at {act.site}" for act in acts if not act.fired})
        if silent:
            raise RuntimeError(
                f"{silent[0]} never took effect{f' (and {len(silent) - 1} more)' if len(silent) > 1 else ''}: "
                "the model was not run inside the edit, or did not reach that layer or position."
            )


def _by_site(acts: Sequence[Act]) -> dict[str, list[Tap]]:
    at: dict[str, list[Tap]] = defaultdict(list)
    for act in acts:
        if isinstance(act, Tap):
            at[act.site.name].append(act)
    return at


def _listener(
    acts: Sequence[Act],
    at: Mapping[str, list[Tap]],
    outer: Any,
    layer: int,
    tower: Tower,
    clock: Clock,
    report: Report | None,
) -> AttentionTaps:
    """The layer's listener; what an outer `with` block has placed there acts first."""
    before = outer if isinstance(outer, AttentionTaps) else AttentionTaps(layer, tower.is_cross, clock, {})
    ordered = [act for act in acts if isinstance(act, Tap | Step)]
    steps = [act for act in ordered if isinstance(act, Step)]
    everything = [*(tap for taps in before.sites.values() for tap in taps), *before.steps]
    # an outer block's edits were in order among themselves
    earlier = [act for act in everything if isinstance(act, Step) or act.site.name in ("attn_scores", "pattern")]
    earlier.sort(key=lambda act: 1 if isinstance(act, Step) else 0 if act.site.name == "attn_scores" else 2)
    refuse_conflicts([*earlier, *ordered])
    return AttentionTaps(
        layer,
        tower.is_cross,
        clock,
        {site: [*before.sites.get(site, []), *at.get(site, [])] for site in ATTENTION_SITES},
        [*before.steps, *steps],
        [*before.watchers, *(act for act in acts if isinstance(act, Watch))],
        [*before.reports, *([(report, steps)] if report is not None and steps else [])],
        tower.reads_pictures,
    )


def _note(group: Massive, layer: int, clock: Clock, module: nn.Module, args: tuple, kwargs: dict) -> None:
    note_massive(group, layer, args[0] if args else kwargs["hidden_states"], clock)


def _check_available(act: Act, towers: Mapping[str, Tower]) -> None:
    site = act.site
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


def _install(stack: ExitStack, layer: Layer, taps: BlockTaps) -> None:
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
