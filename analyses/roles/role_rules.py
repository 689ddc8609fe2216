"""When a head is said to have a role: rules over the evidence, and how well each head meets them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Rule:
    """A role, and what it asks for: (evidence, threshold, sign), where sign -1 asks for minus the threshold or less.

    `on_task` tells roles that are seen on a task's prompts from those seen where random tokens come again.
    """

    role: str
    on_task: bool
    conditions: tuple[tuple[str, str, int], ...]

    def strength(
        self, evidence: Mapping[str, Float[np.ndarray, "layer head"]], thresholds: Mapping[str, float]
    ) -> Float[np.ndarray, "layer head"]:
        """The least of evidence over threshold: 1 just meets the rule. NaN where some evidence is missing."""
        met = [sign * evidence[name] / thresholds[threshold] for name, threshold, sign in self.conditions]
        return np.min(met, 0)


# Negative movers work against the answer where they look at it (2211.00593) and for it where they look at the foil
# (2310.08744).
RULES = (
    Rule("mover", True, (("to_answer", "attention", 1), ("direct", "direct", 1), ("copy", "copy", 1))),
    Rule(
        "negative mover", True, (("to_answer", "attention", 1), ("direct", "direct", -1), ("negative_copy", "copy", 1))
    ),
    Rule("negative mover", True, (("to_foil", "attention", 1), ("direct", "direct", 1), ("negative_copy", "copy", 1))),
    Rule("inhibition", True, (("to_foil", "attention", 1), ("into_movers", "inhibition", 1))),
    Rule("induction", False, (("induction", "induction", 1),)),
    Rule("duplicate token", False, (("duplicate", "duplicate", 1),)),
    Rule("previous token", False, (("previous_token", "previous_token", 1),)),
)
ROLES = tuple(dict.fromkeys(rule.role for rule in RULES))
ON_TASK = {rule.role for rule in RULES if rule.on_task}
MOVERS = ("mover", "negative mover")


def strengths(
    evidence: Mapping[str, Float[np.ndarray, "layer head"]], thresholds: Mapping[str, float]
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """How well each head meets each role, by whichever of its rules it meets best; from 1 on it has the role.

    Rules whose evidence is not given are left out.
    """
    found: dict[str, np.ndarray] = {}
    for rule in RULES:
        if all(name in evidence for name, _, _ in rule.conditions):
            met = rule.strength(evidence, thresholds)
            found[rule.role] = np.fmax(found[rule.role], met) if rule.role in found else met
    return found
