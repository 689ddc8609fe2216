"""Would a circuit do the task if its heads attended as they do elsewhere? Rows at END forced onto the wrong options.

In 2310.08744 (Merullo, Eickhoff, Pavlick) four heads of GPT-2 medium that inhibit names in indirect object
identification lie idle on colored objects. With their attention at END put in equal parts on the colors that are not
the answer, and everything behind recomputed, accuracy rises from 49.6% to 93.7%, the authors report. The wrong options
cannot be known without the answer: this is an ORACLE, and every result says so.

Controls of this edit are ours: the same heads are also forced onto other tokens, and other heads of the same layers
onto the wrong options. Their script has three positions in its text, for one template; here they are each prompt's own.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.circuits.repair_result import ORACLE, Followed, Readings, Repair
from headlens.analyses.direct_parts import sites_of, split_logits, units_of
from headlens.analyses.end_runs import end_runs
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.head_sets import random_head_sets
from headlens.analyses.prompt_groups import group_whole_prompts
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.hooks.head_output import head_output
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.readout import find_readout
from headlens.hooks.row_edits import ForceRow
from headlens.hooks.sites import Head, Site, parse_heads

# Prompts of one forward pass.
_AT_ONCE = 32
# The options of colored objects; the answer's own is called C+ too.
_COLORS, _OWN = ("C1", "C2", "C3"), "C+"

Wrong = Callable[[Task], Sequence[Sequence[int]] | Tensor] | Sequence[str] | None
# Positions of each prompt [prompt, n]; one with fewer has its first again.
Places = Int[Tensor, "prompt n"]


@dataclass(frozen=True, eq=False)
class _Run:
    """Heads whose rows at END are forced, and onto which positions of each prompt; no heads for no edit."""

    heads: tuple[Head, ...] = ()
    onto: Places | None = None

    def edits(self, prompts: Sequence[int], end: int) -> list[ForceRow]:
        """The edit for a run of these prompts, which all end at `end`."""
        return [] if self.onto is None else [ForceRow([*self.heads], pos=end, keys=self.onto[[*prompts]])]


def repair(
    model: Model,
    task: Task,
    arms: Mapping[str, Any],
    *,
    wrong: Wrong = None,
    n_random: int = 20,
    seed: int = 0,
    followers: Any = (),
    progress: bool = True,
) -> Repair:
    """Force heads at END onto the wrong options, arm by arm, and see what the model answers. An ORACLE.

    The clean prompts are run. Nothing in front of END can change, so that a prompt is read once and then only its last
    token, for each arm and each draw of the controls.

    Args:
        arms: heads by the arm's name, such as `{"inhibition": ["L12H3", "L13H4"], "negative": "L19H1"}`.
        wrong: where each prompt's wrong options stand: a function of the task that returns positions [prompt, n] (n may
            differ), or names of positions, of which the answer's own (C+ where the task has it, otherwise where the
            answer's token stands) is left out. By default, and for colored objects only, C1, C2 and C3.
        n_random: how many draws of each control; 0 for none. Where there are fewer other sets of heads, all are run.
        seed: of the draws.
        followers: heads that read what the arms change, movers in the paper; their attention at END and what they
            write directly into answer minus foil are compared before and after.

    Returns:
        A Repair: `.described()`, `.to_frame()`, `.followers_frame()`, `.gain(arm)`. Positive gains are towards the
        answer. The paper predicts of followers less attention to the wrong options, more to the answer, and a larger
        attribution.

    Raises:
        ValueError: for no arms, heads that do not exist, wrong options that are none, the answer's own or not in front
            of END, prompts with too few other tokens, fewer than 2 prompts, and models that do not predict the next
            token.
    """
    refuse_unfit(model, task)
    if len(task) < 2 or n_random < 0:
        raise ValueError(f"{len(task)} prompts and n_random={n_random} were given; give 2 or more, and 0 or more.")
    sets = _heads_of(model, arms)
    following = tuple(dict.fromkeys(parse_heads(followers, model.n_layers, model.n_heads)))
    own = _own_positions(task)
    places = _wrong_places(task, wrong, own)
    others = _other_tokens(task, places, own, n_random, seed)
    everyone = parse_heads("all", model.n_layers, model.n_heads)
    drawn = {arm: random_head_sets(heads, everyone, n_random, seed) if n_random else [] for arm, heads in sets.items()}
    runs = [_Run()]
    for arm, heads in sets.items():
        runs += [_Run(heads, places), *(_Run(heads, each) for each in others)]
        runs += [_Run(some, places) for some in drawn[arm]]
    found = _read(model, task, runs, _option_tokens(task, places), progress)
    after, other_tokens, other_heads, at = {}, {}, {}, 1
    for arm in sets:
        behind = at + 1 + len(others)
        after[arm], other_tokens[arm] = found[at], found[at + 1 : behind]
        at = behind + len(drawn[arm])
        other_heads[arm] = found[behind:at]
    followed, units = [], ""
    if following:
        followed, units = _follow(
            model, task, [_Run(), *(_Run(each, places) for each in sets.values())], following, own
        )
    names = getattr(wrong, "__name__", "a function") if callable(wrong) else [*(_COLORS if wrong is None else wrong)]
    about = {"oracle": True, "note": ORACLE, "method": "rows at END forced onto the wrong options (2310.08744)"}
    about |= {"wrong": names, "n_random": n_random, "seed": seed, "attribution_units": units}
    return Repair(
        arms=sets,
        before=found[0],
        after=after,
        other_tokens=other_tokens,
        other_heads=other_heads,
        random_heads=drawn,
        clusters=task.templates,
        followers=following,
        followed_before=followed[0] if following else None,
        followed=dict(zip(sets, followed[1:], strict=True)) if following else {},
        provenance={**origin(model, task), **about},
    )


def _heads_of(model: Model, arms: Mapping[str, Any]) -> dict[str, tuple[Head, ...]]:
    sets = {arm: tuple(dict.fromkeys(parse_heads(heads, model.n_layers, model.n_heads))) for arm, heads in arms.items()}
    if not sets or not all(sets.values()):
        raise ValueError(f"The arms {dict(arms)} were given; expected heads by name, such as {{'all': ['L19H1']}}.")
    return sets


def _own_positions(task: Task) -> Bool[Tensor, "prompt pos"]:
    """Where the answer's own option stands in each prompt; nowhere, if its token is not in the prompt."""
    ends, places = task.positions["END"][:, None], torch.arange(task.clean_tokens.shape[1])
    if _OWN in task.positions:
        return places == task.positions[_OWN][:, None]
    right = torch.stack(
        [torch.isin(row, torch.tensor(each)) for row, each in zip(task.clean_tokens, task.answer_sets, strict=True)]
    )
    return right & (places < ends)


def _wrong_places(task: Task, wrong: Wrong, own: Bool[Tensor, "prompt pos"]) -> Places:
    """The positions to force rows onto, checked."""
    if callable(wrong):
        found = [sorted({int(place) for place in row}) for row in wrong(task)]
    else:
        names = _names(task, wrong)
        rows = torch.stack([task.positions[name] for name in names], 1).tolist()
        found = [sorted({at for at in row if not own[prompt, at]}) for prompt, row in enumerate(rows)]
    if len(found) != len(task):
        raise ValueError(f"wrong= gave positions for {len(found)} prompts and the task has {len(task)}; give each its.")
    for prompt, (row, end) in enumerate(zip(found, task.positions["END"].tolist(), strict=True)):
        if not row or row[0] < 0 or row[-1] >= end:
            raise ValueError(
                f"Prompt {prompt} of {task.name!r} has its wrong options at {row}; expected one or more positions in "
                f"front of its END at {end}."
            )
        if own[prompt, row].any():
            raise ValueError(
                f"Prompt {prompt} of {task.name!r} has its wrong options at {row}, among them the answer's own; leave "
                "that position out."
            )
    return _even(found)


def _names(task: Task, wrong: Any) -> Sequence[str]:
    names = [wrong] if isinstance(wrong, str) else [*(_COLORS if wrong is None else wrong)]
    missing = [name for name in (*names, *([_OWN] if wrong is None else [])) if name not in task.positions]
    if missing or not names:
        raise ValueError(
            f"The task {task.name!r} has no position {missing[0] if missing else names!r}; say where its wrong options "
            f"stand, wrong=[...], by names out of {', '.join(task.positions)}, or by a function of the task."
        )
    return names


def _even(rows: Sequence[Sequence[int]]) -> Places:
    """Rows of one length; a position that is there twice counts once in an edit."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in rows])


def _other_tokens(task: Task, places: Places, own: Bool[Tensor, "prompt pos"], draws: int, seed: int) -> list[Places]:
    """For each draw and prompt as many positions in front of END as are wrong, where no option's token stands."""
    random, free = np.random.default_rng(seed), []
    for prompt, end in enumerate(task.positions["END"].tolist()):
        tokens = task.clean_tokens[prompt, :end]
        options = torch.cat([tokens[places[prompt]], tokens[own[prompt, :end]]])
        answers = torch.tensor([*task.answer_sets[prompt], *task.foil_sets[prompt]])
        free.append(torch.nonzero(~torch.isin(tokens, torch.cat([options, answers])))[:, 0].numpy())
        if draws and len(free[-1]) < len({*places[prompt].tolist()}):
            raise ValueError(
                f"Prompt {prompt} of {task.name!r} has {len(free[-1])} tokens that are no option, fewer than it has "
                "wrong options; leave the controls out, n_random=0, or give longer prompts."
            )
    counts = [len({*row}) for row in places.tolist()]
    return [
        _even([random.choice(some, count, replace=False).tolist() for some, count in zip(free, counts, strict=True)])
        for _ in range(draws)
    ]


def _option_tokens(task: Task, places: Places) -> Int[Tensor, "prompt n"]:
    """The token that each wrong option is as an answer; -1 where the task does not show it.

    An answer may be written otherwise than its option (" Blue" for " blue"). C+ is answered by the answer and C- by the
    foil, so the task shows how its options are written; without them each is written as it stands.
    """
    rows, shown = torch.arange(len(task)), {}
    for name, answers in ((_OWN, task.answers), ("C-", task.foils)):
        if name in task.positions:
            standing = task.clean_tokens[rows, task.positions[name]]
            shown |= dict(zip(standing.tolist(), answers.tolist(), strict=True))
    as_they_stand = all(token == answer for token, answer in shown.items())
    standing = task.clean_tokens.gather(1, places).tolist()
    return torch.tensor([[shown.get(token, token if as_they_stand else -1) for token in row] for row in standing])


def _read(model: Model, task: Task, runs: Sequence[_Run], options: Tensor, progress: bool) -> Readings:
    """Every run of every prompt, [run, prompt]."""
    shape = len(runs), len(task)
    found = Readings(np.zeros(shape, bool), np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32))
    groups, last_alone = group_whole_prompts(task, _AT_ONCE), known_words(model.hf, logits_to_keep=1)
    with tqdm(total=len(runs) * len(groups), unit=" runs", disable=not progress) as bar, torch.no_grad():
        bar.set_description(f"forcing rows of {task.name}")
        for group in groups:
            tokens, prompts = group.rows(task.clean_tokens).to(model.device), [*group.indices]
            with model.edited():
                past = model.hf(input_ids=tokens[:, :-1], use_cache=True, **last_alone).past_key_values
            for at, run in enumerate(runs):
                with model.edited(*run.edits(prompts, group.length - 1)):
                    # a copy, because the last token is written into it
                    logits = model(tokens[:, -1:], past_key_values=copy.deepcopy(past), use_cache=True)[:, -1]
                _answered(found[at], logits.float().cpu(), task, prompts, options)
                bar.update()
    return found


def _answered(found: Readings, logits: Tensor, task: Task, prompts: Sequence[int], options: Tensor) -> None:
    """Fill in what these prompts' logits [prompt, vocabulary] answer."""
    for row, prompt in zip(logits, prompts, strict=True):
        right = task.answer_sets[prompt]
        found.right[prompt] = int(row.argmax()) in right
        wrong = {*task.foil_sets[prompt], *options[prompt].tolist()} - {*right}
        if -1 not in wrong:
            found.among[prompt] = float(row[[*right]].max() > row[[*wrong]].max())
        found.logit_diff[prompt] = float(row[task.answers[prompt]] - row[task.foils[prompt]])


def _follow(
    model: Model, task: Task, runs: Sequence[_Run], followers: Sequence[Head], own: Bool[Tensor, "prompt pos"]
) -> tuple[list[Followed], str]:
    """What the followers do in each run, and the units of what they write."""
    # before any edit: finding them out runs the model too
    readout, layers = find_readout(model), sorted({head.layer for head in followers})
    outputs = {layer: head_output(model, model.layers[layer]) for layer in layers}
    sites = [*sites_of(model), *(Site(name, layer) for name in ("z", "pattern") for layer in layers)]
    shape = len(runs), 3, len(followers), len(task)
    found = np.full(shape, np.nan, np.float32)
    places = next(run.onto for run in runs if run.onto is not None)
    wrong = torch.zeros_like(own).scatter(1, places, True)
    for group in group_whole_prompts(task, _AT_ONCE):
        prompts, length = [*group.indices], group.length
        masks = torch.stack([own, wrong])[:, prompts, :length].to(model.device)
        for at, run in enumerate(runs):
            with model.edited(*run.edits(prompts, length - 1)):
                [end] = end_runs(model, task.subset(prompts), "clean", sites, None)
            direction = split_logits(model, readout, end).direction
            for place, (layer, head) in enumerate(followers):
                attention = end.at("pattern", layer)[:, head]
                seen = (attention * masks).sum(-1).where(masks.any(-1), torch.nan)
                z = end.at("z", layer)
                written = (z * outputs[layer].reading(direction, z, end.at("attn_out", layer))).sum(-1)[:, head]
                found[at, :, place][:, prompts] = torch.stack([*seen, written]).cpu().numpy()
    return [Followed(*each) for each in found], units_of(readout)
