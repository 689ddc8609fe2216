"""All gates of one model in one go: what is built on a model of scenes means nothing where G1, G2 or G3 fails.

G1 it answers well, G2 it errs where the habit of its world points, G3 it has that habit without a picture, G4 few heads
see, G5 and G6 what reinforcing them does to answers, G7 to descriptions, G8 sinks and what moving their attention does;
and T-VHD. Thresholds are constants of each gate's file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headlens.analyses.provenance import weights_origin
from headlens.analyses.vision.gates.figures import FAILS, Figure, Gate
from headlens.analyses.vision.gates.natural_sinks import natural_sinks
from headlens.analyses.vision.gates.plain_answers import answered_well, misled
from headlens.analyses.vision.gates.planted_dose import planted_dose
from headlens.analyses.vision.gates.reinforced import reinforced
from headlens.analyses.vision.gates.reinforced_captions import reinforced_captions
from headlens.analyses.vision.gates.seeing_heads import seeing_heads
from headlens.analyses.vision.gates.setting import Setting
from headlens.analyses.vision.gates.told_prior import told_without_picture
from headlens.analyses.vision.gates.told_words import told_words

# Without these nothing downstream means anything.
NEEDED = ("G1", "G2", "G3")


@dataclass(frozen=True, eq=False)
class Report:
    """The figures and gates of one model, and where they came from."""

    model: str
    figures: tuple[Figure, ...]
    gates: tuple[Gate, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> tuple[Gate, ...]:
        """Of the gates that everything else needs, those that fail."""
        return tuple(one for one in self.gates if one.name.split()[0] in NEEDED and one.verdict == FAILS)


def gates_of(setting: Setting) -> Report:
    """Every gate of a model that was trained on `setting.world`, whose anchors come with their partners."""
    well, g1 = answered_well(setting)
    wrong, g2, parted = misled(setting)
    told, g3 = told_without_picture(setting)
    heads, g4 = seeing_heads(setting)
    edited, (g5, g6) = reinforced(setting, parted)
    captions, g7, plain = reinforced_captions(setting)
    natural, g8 = natural_sinks(setting, parted)
    planted, dose, rule = planted_dose(setting)
    figures = [*well, *wrong, *told, *heads, *edited, *captions, *natural, *planted, *told_words(setting, plain)]
    return _report(setting, figures, [g1, g2, g3, g4, g5, g6, g7, g8, dose, rule])


def gates_of_twin(setting: Setting) -> Report:
    """Gates of the twin, which was trained on `setting.world`, in which nothing goes together: it answers well too, and
    a missing partner misleads it no more than anything else."""
    well, g1 = answered_well(setting, replace(setting.world, weak=0.0))
    wrong, g2, _ = misled(setting, twin=True)
    told, g3 = told_without_picture(setting)
    return _report(setting, [*well, *wrong, *told], [g1, g2, g3])


def across(reports: Sequence[Report]) -> Report:
    """Over models: each figure's mean, with the least and most of them; and how many models each gate holds for."""
    by: dict[tuple, list[Figure]] = {}
    for one in reports:
        for figure in one.figures:
            by.setdefault((figure.gate, figure.about, figure.measure), []).append(figure)
    figures = []
    for (gate, about, measure), own in by.items():
        values = [one.value for one in own if not np.isnan(one.value)]
        nan = float("nan")
        mean, least, most = (float(np.mean(values)), min(values), max(values)) if values else (nan, nan, nan)
        figures.append(Figure(gate, about, measure, mean, least=least, most=most))
    claims: dict[tuple[str, str], list[Gate]] = {}
    for one in reports:
        for gate in one.gates:
            claims.setdefault((gate.name, gate.claim), []).append(gate)
    gates = []
    for (name, claim), own in claims.items():
        counts = {verdict: sum(one.verdict == verdict for one in own) for verdict in (one.verdict for one in own)}
        (verdict, _), *more = sorted(counts.items(), key=lambda item: -item[1])
        said = ", ".join(f"{verdict} for {count}" for verdict, count in counts.items())
        gates.append(Gate(name, claim, "differs" if more else verdict, f"{said} of {len(own)} models"))
    return Report(f"{len(reports)} models", tuple(figures), tuple(gates), {"models": [one.model for one in reports]})


def _report(setting: Setting, figures: Sequence[Figure], gates: Sequence[Gate]) -> Report:
    origin = {
        **weights_origin(setting.model),
        "seeds": [*setting.seeds],
        "scenes": setting.scenes,
        "scenes_for_each_head": setting.few,
        "world": vars(setting.world),
        "resamples": setting.resamples,
        "bounds": "percentile bootstrap over scenes, 95%",
    }
    return Report(setting.model.name, tuple(figures), tuple(gates), origin)
