"""What a caller wants `head_stats` to measure, checked before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headlens.analyses.row_readings import STATISTICS, Statistic, of_group
from headlens.hooks.groups import Chosen, Either, Group, Massive, Positions, as_group, parts_of
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.row_blocks import Block
from headlens.hooks.token_kinds import Resolving


@dataclass(frozen=True, eq=False)
class Asked:
    """Statistics by name, and the groups of keys whose share of attention is asked for: as given, and as token ids."""

    named: Mapping[str, Statistic]
    groups: Mapping[str, Group]
    resolved: Mapping[str, Group]

    def about(self, prompts: slice, runs: int = 1) -> dict[str, Statistic]:
        """All of them, for a run of these prompts alone, or of these and then (runs=2) of these in another run."""
        parts = {name: of_group(of_prompts(group, prompts, runs)) for name, group in self.resolved.items()}
        return {**self.named, **parts}

    @property
    def massive(self) -> set[Massive]:
        """The groups, or parts of groups, that are known by the residual stream before a layer."""
        every = [part for group in self.resolved.values() for part in parts_of(group)]
        return {part for part in every if isinstance(part, Massive)}

    @property
    def functions(self) -> dict[str, Callable[[Block], Any]]:
        """The functions that choose keys, alone or as a part of a group, under the group's name."""
        every = [(name, part) for name, group in self.groups.items() for part in parts_of(group)]
        return {name: part.function for name, part in every if isinstance(part, Chosen)}

    def described(self, name: str) -> dict[str, str]:
        """What a map's provenance says of the group that it is about."""
        return {"group": _in_words(self.groups[name])} if name in self.groups else {}


def asked(what: str | Sequence[str], groups: Mapping[str, Any] | None, resolve: Resolving, prompts: int) -> Asked:
    """ValueError for what is unknown, for two of one name, for nothing at all, and for positions of other prompts."""
    names = [what] if isinstance(what, str) else list(what)
    for name in names:
        if name not in STATISTICS:
            hint = did_you_mean(name, STATISTICS)
            raise ValueError(f"Unknown statistic {name!r}{hint}; the statistics are {', '.join(STATISTICS)}.")
    given = {name: as_group(group) for name, group in (groups or {}).items()}
    twice = [name for name in given if name in STATISTICS]
    if twice:
        raise ValueError(f"A group is called {twice[0]!r} like a statistic; give it another name.")
    if not names and not given:
        raise ValueError(f"There is nothing to measure; name a statistic ({', '.join(STATISTICS)}) or give groups.")
    for name, group in given.items():
        _refuse_other_prompts(name, group, prompts)
    resolved = {name: resolve(group) for name, group in given.items()}
    return Asked({name: STATISTICS[name] for name in names}, given, resolved)


def _refuse_other_prompts(name: str, group: Group, prompts: int) -> None:
    match group:
        case Positions(at) if at.ndim == 2 and len(at) != prompts:
            raise ValueError(f"The group {name!r} has positions for {len(at)} prompts, and there are {prompts}.")
        case Either(several):
            for each in several:
                _refuse_other_prompts(name, each, prompts)


def _in_words(group: Group) -> str:
    """The group with all that it holds, the same in each process; a function has no more than a name."""
    match group:
        case Positions(at):
            return f"Positions({at.tolist()})"
        case Either(several):
            return f"Either({', '.join(map(_in_words, several))})"
        case Chosen(function):
            # its own text has its address in it
            return getattr(function, "__name__", "a function")
        case _:
            return str(group)


def of_prompts(group: Group, prompts: slice | list[int], runs: int = 1) -> Group:
    """The same group for a run of these prompts alone, `runs` times in a row."""
    match group:
        case Positions(at) if at.ndim == 2:
            return Positions(at[prompts].repeat(runs, 1))
        case Either(several):
            return Either(tuple(of_prompts(each, prompts, runs) for each in several))
        case _:
            return group
