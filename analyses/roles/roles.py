"""What do heads do? Previous-token, duplicate-token, induction, mover, negative mover and inhibition heads, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.direct_logits import direct_logits
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.headmap import HeadMap
from headlens.analyses.paths.path_patching import path_patch
from headlens.analyses.provenance import origin
from headlens.analyses.roles.copy_scores import copy_scores
from headlens.analyses.roles.named_words import attention_to_words
from headlens.analyses.roles.repetition import repetition
from headlens.analyses.roles.role_rules import MOVERS, ON_TASK, ROLES, strengths
from headlens.analyses.task import Task
from headlens.analyses.thresholds import check_thresholds
from headlens.hooks.model import Model
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.sites import Head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Roles:
    """The evidence for each role, a HeadMap over (layer, head) by name, and the thresholds that it is held against.

    A role describes what a head does on these prompts. It is no proof that the model needs the head for it, or that the
    head does nothing else; that is asked by ablation and patching.
    """

    evidence: Mapping[str, HeadMap]
    thresholds: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def strengths(self) -> dict[str, np.ndarray]:
        """How well each head [layer, head] meets each role: the least of its evidence over threshold, 1 just does."""
        return strengths({name: each.values for name, each in self.evidence.items()}, self.thresholds)

    def heads(self, role: str) -> tuple[str, ...]:
        """The heads that have a role, strongest first. ValueError for a role that there is not."""
        if role not in ROLES:
            raise ValueError(f"There is no role {role!r}{did_you_mean(role, ROLES)}; the roles are {', '.join(ROLES)}.")
        return tuple(str(head) for _, head in _holders(self.strengths.get(role, np.zeros((0, 0)))))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per head and role that it has, strongest first: head, role, strength, and each evidence's value."""
        import pandas

        rows = []
        for role, strength in self.strengths.items():
            for met, head in _holders(strength):
                numbers = {name: float(each.values[head]) for name, each in self.evidence.items()}
                rows.append({"head": str(head), "role": role, "strength": met, **numbers})
        frame = pandas.DataFrame(rows, columns=["head", "role", "strength", *self.evidence])
        return frame.sort_values("strength", ascending=False, kind="stable", ignore_index=True)

    def labels(self) -> dict[str, str]:
        """One role per head that has any, {"L23H3": "mover"}, in order of layers and heads.

        Of several roles, those seen on the task go before those seen where random tokens come again, since the first
        are about this task; among these, the one that the head meets best.
        """
        best: dict[Head, tuple[bool, float, str]] = {}
        for role, strength in self.strengths.items():
            for met, head in _holders(strength):
                own = (role in ON_TASK, met, role)
                best[head] = max(best.get(head, own), own, key=lambda each: each[:2])
        return {str(head): role for head, (_, _, role) in sorted(best.items())}

    def on(self, circuit: Circuit) -> Circuit:
        """The circuit with its heads' labels as roles; what it says of other nodes stays.

        ValueError for a circuit of a model of another size.
        """
        sizes = next(iter(self.evidence.values())).values.shape
        other = (circuit.wiring.n_layers, circuit.wiring.n_heads)
        if other != sizes:
            raise ValueError(
                f"The circuit is of a model with {other[0]} layers of {other[1]} heads, and these roles are of one "
                f"with {sizes[0]} of {sizes[1]}; find the roles of the circuit's own model."
            )
        labels, inside = self.labels(), {str(head) for head in circuit.heads}
        found = {head: role for head, role in labels.items() if head in inside}
        return replace(circuit, roles={**circuit.roles, **found})

    def described(self) -> str:
        """The heads of each role, a line each."""
        lines = [f"{role}: {', '.join(self.heads(role)) or 'none'}" for role in ROLES]
        return "\n".join([*lines, "Roles describe what heads do on these prompts; they prove no need for them."])


def roles(
    model: Model,
    task: Task,
    *,
    previous_token: float = 0.4,
    duplicate: float = 0.4,
    induction: float = 0.4,
    attention: float = 0.2,
    direct: float = 0.1,
    copy: float = 0.5,
    inhibition: float = 0.05,
    top: int = 5,
    length: int = 50,
    sequences: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Roles:
    """Look for heads of the roles of 2211.00593, by what they attend to, what they write, and whom they tell.

    Where random tokens come again (`repetition`), as means over a prompt's rows:

    - "previous token": attention to the token before, `previous_token` or more.
    - "duplicate token": attention to earlier copies of the row's token, `duplicate` or more.
    - "induction" (2209.11895): attention to what came after earlier copies, `induction` or more.

    At END of the task's clean prompts:

    - "mover": attends to the answer's word (`attention` or more), writes for the answer (`direct` logits or more, by
      direct logit attribution), and copies (copy score `copy` or more).
    - "negative mover": has a negative copy score of `copy` or more, and either attends to the answer's word and writes
      against the answer (2211.00593), or attends to the foil's and so writes for the answer (2310.08744's 19.1 in GPT-2
      medium).
    - "inhibition": attends to the foil's word, and its paths into the queries of all movers, negative ones too, carry
      the clean behaviour: `inhibition` or more of the clean-corrupted difference (`path_patch`, noising, at END).

    A head may have several roles. A prompt that does not hold its answer, or its foil, is NaN in what is asked of that
    word; without any that does, no head is a mover or an inhibition head. Without movers "into_movers" is NaN.

    Args:
        previous_token, duplicate, induction, attention: shares of a row's attention.
        direct: logits, answer minus foil. copy: a share of places. inhibition: a share of the task's metric.
        top: how many likeliest tokens the answer must be among for the copy scores.
        length, sequences, seed: the random tokens, all different, repeated once; how many such prompts; and their seed.

    The thresholds are chosen on SmolLM2-135M-Instruct (270 heads) on 16 prompts of `ioi`, between the few heads that
    stand out and the rest. Half of all heads have less than 0.05 of each attention and 0.01 direct logits in magnitude,
    and 257 have a copy score of 0. Met are 0.4 by 4 to 9 heads, 0.2 of the attention by 15 (answer) and 25 (foil), a
    tenth of a logit by 11, a copy score of 0.5 by 6 (negative: 2), and, on 8 prompts, 0.05 into movers by 2. On another
    model, look at the evidence first.

    Departures from 2211.00593: inhibition is asked of paths into negative movers too; "backup" movers are not told from
    others, since that takes an ablation of the first. See `copy_scores` for the rest.

    Returns:
        Roles: `.to_frame()` (each head and role with its evidence), `.labels()` and `.on(circuit)` (one role per head),
        `.heads(role)`, `.described()`, and `.evidence`, a HeadMap each with units, sign and paper: "previous_token",
        "duplicate", "induction", "to_answer", "to_foil", "direct", "copy", "negative_copy", "into_movers".

    Raises:
        ValueError: for a threshold that is not above 0, a task that does not fit the model, and whatever
            `repetition`, `copy_scores`, `direct_logits` and `path_patch` refuse.
    """
    thresholds = {
        "previous_token": previous_token,
        "duplicate": duplicate,
        "induction": induction,
        "attention": attention,
        "direct": direct,
        "copy": copy,
        "inhibition": inhibition,
    }
    check_thresholds(thresholds)
    refuse_unfit(model, task)
    evidence = {
        **repetition(model, length, sequences, seed, progress),
        **attention_to_words(model, task),
        "direct": _from_paper(direct_logits(model, task)),
        **copy_scores(model, task, top, progress),
    }
    evidence["into_movers"] = _into_movers(model, task, Roles(evidence, thresholds), progress)
    settings = {"top": top, "length": length, "sequences": sequences, "seed": seed}
    return Roles(evidence, thresholds, {**origin(model, task), **settings, "thresholds": thresholds})


def _into_movers(model: Model, task: Task, found: Roles, progress: bool) -> HeadMap:
    """The effect of each head through its paths into the movers' queries at END; NaN without movers to speak to."""
    holders = sorted({head for role in MOVERS for _, head in _holders(found.strengths[role])})
    # the first layer's heads hear no other
    movers = [(str(head), "q") for head in holders if head.layer > 0]
    if movers:
        return _from_paper(path_patch(model, task, movers, positions="END", progress=progress))
    return HeadMap(
        np.full((model.n_layers, model.n_heads), np.nan, np.float32),
        dims=("layer", "head"),
        name="path patching effect into movers",
        units="fraction of the clean-corrupted difference",
        sign="Missing: no head that others could speak to met the rules for movers.",
        provenance={**origin(model, task), "receivers": [], "paper": "2211.00593"},
    )


def _from_paper(headmap: HeadMap, paper: str = "2211.00593") -> HeadMap:
    return replace(headmap, provenance={**headmap.provenance, "paper": paper})


def _holders(strength: np.ndarray) -> list[tuple[float, Head]]:
    """The heads that have a role, with how well they meet it, strongest first."""
    cells = [Head(int(layer), int(head)) for layer, head in np.argwhere(strength >= 1)]
    return sorted(((float(strength[cell]), cell) for cell in cells), key=lambda each: (-each[0], each[1]))
