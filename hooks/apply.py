"""How each edit acts: from frozen values to taps on the sites of one model, and steps of its attention rows."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from headlens.hooks.discover import Tower
from headlens.hooks.edits import Ablate, Call, Gate, Patch, Pos
from headlens.hooks.groups import Group
from headlens.hooks.norm_gate import NormGate
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sites import MAIN, SITE_AXES, Site, parse_heads, parse_site
from headlens.hooks.steps import Recalibration, Step
from headlens.hooks.taps import Tap, TapFunction, Where
from headlens.hooks.touched import touched

HeadEdit = Patch | Ablate | Gate | Recalibration
Edit = HeadEdit | NormGate | Call


def acts_of(
    edits: Sequence[Edit], towers: Mapping[str, Tower], resolve: Callable[[Group], Group] = lambda group: group
) -> list[Tap | Step]:
    """The taps and steps of several edits, in the order given. `resolve` turns groups of words into token ids."""
    return [act for edit in edits for act in _acts(edit, towers, resolve)]


def _acts(edit: Edit, towers: Mapping[str, Tower], resolve: Callable[[Group], Group]) -> Sequence[Tap | Step]:
    match edit:
        case Call():
            return [Tap(site, partial(_use, edit.function), f"The hook {site}") for site in _named_sites(edit, towers)]
        case Gate():
            return _per_layer(edit, "z", towers, lambda site, heads: _on_rows(edit.pos, _scaled(heads, edit.gamma)))
        case Ablate():
            return _per_layer(edit, edit.site, towers, lambda site, heads: _ablation(edit, site, heads))
        case Patch():
            return _per_layer(edit, edit.site, towers, lambda site, heads: _patch(edit, site, heads))
        case NormGate():
            return [tap for layer in range(len(towers[MAIN].layers)) for tap in _norm_gate(edit, layer)]
        case Recalibrate() | Temperature() | KnockOut() | ForceRow():
            return _steps(edit, towers, resolve)
        case _:
            raise ValueError(
                f"{edit!r} is not an edit; use Patch, Ablate, Gate, Recalibrate, Temperature, KnockOut, ForceRow, "
                "NormGate or Call."
            )


def _steps(edit: Recalibration, towers: Mapping[str, Tower], resolve: Callable[[Group], Group]) -> list[Step]:
    match edit:
        case Recalibrate():
            groups = edit.keys
        case KnockOut() if edit.groups is not None:
            groups = {"cut": edit.groups}
        case ForceRow():
            groups = {"kept": edit.keys}
        case _:
            groups = {}
    resolved = {name: group if isinstance(group, str) else resolve(group) for name, group in groups.items()}
    asked_by = f"{type(edit).__name__}({edit.heads!r})"
    return [
        Step(Site("pattern", layer), tuple(sorted({*heads})), edit, resolved, asked_by)
        for layer, heads in _heads_of(edit, towers[MAIN], towers[MAIN].n_heads).items()
    ]


def _norm_gate(edit: NormGate, layer: int) -> list[Tap]:
    """One tap reads the queries, the other silences heads by them."""
    off: dict[str, Tensor] = {}

    def read(query: Tensor, where: Where) -> Tensor:
        off["heads"] = edit.switched_off(query, layer, where.query_start)
        return query

    def silence(z: Tensor, where: Where) -> Tensor:
        return z.masked_fill(off["heads"][..., None], 0)

    return [Tap(Site("rot_q", layer), read, "NormGate"), Tap(Site("z", layer), silence, "NormGate")]


def _heads_of(edit: HeadEdit, tower: Tower, n_heads: int) -> dict[int, list[int]]:
    """The edited heads of each layer that has some."""
    heads_of: dict[int, list[int]] = defaultdict(list)
    for head in parse_heads(edit.heads, len(tower.layers), n_heads):
        heads_of[head.layer].append(head.head)
    if not heads_of:
        raise ValueError(f"{type(edit).__name__} was given no heads; name at least one, such as 'L23H3'.")
    return heads_of


def _per_layer(
    edit: Patch | Ablate | Gate,
    site: str,
    towers: Mapping[str, Tower],
    build: Callable[[Site, list[int]], TapFunction],
) -> list[Tap]:
    """One tap per layer that has edited heads."""
    tower = towers[MAIN]
    per_kv_head = "kv_head" in SITE_AXES[site]
    heads_of = _heads_of(edit, tower, tower.n_kv_heads if per_kv_head else tower.n_heads)
    return [
        Tap(Site(site, layer), build(Site(site, layer), heads), f"{type(edit).__name__}({edit.heads!r})")
        for layer, heads in heads_of.items()
    ]


def _named_sites(edit: Call, towers: Mapping[str, Tower]) -> list[Site]:
    if isinstance(edit.name, str):
        return [parse_site(edit.name)]
    everything = [
        Site(name, index, tower.name)
        for tower in towers.values()
        for index, layer in enumerate(tower.layers)
        for name in SITE_AXES
        if layer.has(name, tower.is_cross)
    ]
    chosen = [site for site in everything if edit.name(str(site))]
    if not chosen:
        raise ValueError("The hook's name filter matched no site of this model; print model.hook_names to see them.")
    return chosen


def _use(function: Callable[..., Tensor | None], tensor: Tensor, where: Where) -> Tensor:
    # a copy, so that a hook working in place never reaches into the cache or an already recorded tensor
    own = tensor.clone()
    answer = function(own, hook=where)
    return own if answer is None else answer


def _scaled(heads: list[int], gamma: float) -> Callable[[Tensor, Tensor], Tensor]:
    def change(tensor: Tensor, rows: Tensor) -> Tensor:
        factor = torch.ones(tensor.shape[2], dtype=tensor.dtype, device=tensor.device)
        factor[heads] = gamma
        return tensor * factor[:, None]

    return change


def _on_rows(pos: Pos, change: Callable[[Tensor, Tensor], Tensor]) -> TapFunction:
    """Apply `change(tensor, absolute positions of its rows)` to the rows named by `pos`, for sites with axes
    batch, pos, head, width."""

    def act(tensor: Tensor, where: Where) -> Tensor | None:
        start = where.key_start if "key" in where.site.axes[:2] else where.query_start
        rows = torch.arange(start, start + tensor.shape[1], device=tensor.device)
        own = touched(pos, rows, tensor.shape[0])
        if not own.any():
            return None
        return torch.where(own[:, :, None, None], change(tensor, rows), tensor)

    return act


def _ablation(edit: Ablate, site: Site, heads: list[int]) -> TapFunction:
    reference = None if edit.reference is None else lookup(edit.reference, site)

    def change(tensor: Tensor, rows: Tensor) -> Tensor:
        out = tensor.clone()
        if reference is None:
            out[:, :, heads] = 0
            return out
        other = reference.to(tensor)[:, :, heads]
        if edit.how == "mean":
            out[:, :, heads] = other.mean((0, 1))
            return out
        if int(rows[-1]) >= other.shape[1]:
            raise ValueError(
                f"Ablate(how={edit.how!r}) reached position {int(rows[-1])}, but its reference has only "
                f"{other.shape[1]} positions; use how='mean', or a longer reference."
            )
        if edit.how == "mean_positional":
            out[:, :, heads] = other.mean(0)[rows]
        else:
            draw = torch.Generator().manual_seed(edit.seed)
            chosen = torch.randint(len(other), (len(tensor),), generator=draw)
            out[:, :, heads] = other[chosen][:, rows]
        return out

    return _on_rows(edit.pos, change)


def lookup(source: Mapping[str, Tensor] | Tensor, site: Site) -> Tensor:
    """The activation of one site in a cache, or the tensor itself where one was given."""
    if isinstance(source, Tensor):
        return source
    try:
        return source[str(site)]
    except KeyError:
        raise ValueError(
            f"The source run did not record {site}; run_with_cache(tokens, names_filter=[{site.name!r}]) does."
        ) from None


def _patch(edit: Patch, site: Site, heads: list[int]) -> TapFunction:
    source = lookup(edit.source, site)
    if source.ndim != 4:
        raise ValueError(
            f"Patch at {site} needs a source of axes {' '.join(site.axes)}; it has shape {tuple(source.shape)}."
        )
    return _patch_rows(edit, source, heads) if site.axes[1] == "head" else _patch_vectors(edit, source, heads)


def _patch_vectors(edit: Patch, source: Tensor, heads: list[int]) -> TapFunction:
    """Sites with axes batch, pos, head, width."""

    def act(tensor: Tensor, where: Where) -> Tensor | None:
        start = where.key_start if "key" in where.site.axes[:2] else where.query_start
        count = min(tensor.shape[1], source.shape[1] - start)
        if count <= 0:
            return None
        _check_batch(source, tensor, where.site)
        rows = torch.arange(start, start + count, device=tensor.device)
        own = touched(edit.pos, rows, tensor.shape[0])
        if not own.any():
            return None
        out = tensor.clone()
        other = source.to(tensor)[:, rows][:, :, heads]
        out[:, :count, heads] = torch.where(own[:, :, None, None], other, tensor[:, :count, heads])
        return out

    return act


def _patch_rows(edit: Patch, source: Tensor, heads: list[int]) -> TapFunction:
    """Sites with axes batch, head, query, key: whole rows; keys the source never saw get no attention."""

    def act(tensor: Tensor, where: Where) -> Tensor | None:
        count = min(tensor.shape[2], source.shape[2] - where.query_start)
        if count <= 0:
            return None
        _check_batch(source, tensor, where.site)
        rows = torch.arange(where.query_start, where.query_start + count, device=tensor.device)
        own = touched(edit.pos, rows, tensor.shape[0])
        if not own.any():
            return None
        nothing = 0.0 if where.site.name == "pattern" else -torch.inf
        keys = torch.arange(where.key_start, where.key_start + tensor.shape[3], device=tensor.device)
        known = keys < source.shape[3]
        other = source.to(tensor)[:, heads][:, :, rows][..., keys.clamp(max=source.shape[3] - 1)]
        other = torch.where(known, other, nothing)
        out = tensor.clone()
        out[:, heads, :count] = torch.where(own[:, None, :, None], other, tensor[:, heads, :count])
        return out

    return act


def _check_batch(source: Tensor, tensor: Tensor, site: Site) -> None:
    if source.shape[0] not in (1, tensor.shape[0]):
        raise ValueError(
            f"Patch at {site} has a source of {source.shape[0]} prompts for a run of {tensor.shape[0]}; "
            "give one prompt, or as many as are run."
        )
