"""What the gates are measured on: one model, scenes that no model was trained on, and how they are asked about."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from headlens.analyses.vision.gates.figures import Figure
from headlens.analyses.vision.gates.results import Results, combined, over_seeds
from headlens.analyses.vision.measures.pope import pope
from headlens.analyses.vision.measures.yes_no import YesNo
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import PARTED, PRIOR, World
from headlens.analyses.vision.under import Under
from headlens.hooks.model import Model

SPLITS = ("random", "popular", "adversarial")
CLEAR, CLEARLY_PARTED = replace(PRIOR, weak=0.0), replace(PARTED, weak=0.0)
# Beside an accuracy stands what it must not be read without.
BESIDE = ("accuracy", "auroc", "recall", "false_positive_rate", "yes_ratio", "margin_if_yes")
FEW = 40


@dataclass(frozen=True, eq=False)
class Setting:
    """`scenes` of each seed are asked about (`few` of them where every head has its own run), of seeds that neither
    training nor tests use. `world` is what the model was trained on; `say` is told what is going on."""

    model: Model
    seeds: tuple[int, ...]
    scenes: int = 200
    world: World = PRIOR
    resamples: int = 1000
    batch: int = 32
    say: Callable[[str], None] = lambda _: None
    asked: dict[tuple, Samples] = field(default_factory=dict)

    @property
    def few(self) -> int:
        return min(self.scenes, FEW)

    def questions(self, seed: int, negatives: str, world: World, scenes: int | None = None) -> Samples:
        n = scenes or self.scenes
        key = (seed, negatives, tuple(vars(world).values()), n)
        if key not in self.asked:
            self.asked[key] = scene_questions(self.model, n, seed, negatives=negatives, world=world)
        return self.asked[key]

    def descriptions(self, seed: int, world: World) -> Samples:
        return scene_descriptions(self.model, self.scenes, seed, world=world)

    def answers(self, negatives: str, world: World) -> Results:
        """Answers of each seed, without edits."""
        self.say(f"{negatives} questions, partners beside their anchors {world.beside_anchor:g}")
        return over_seeds([self.answered(self.questions(seed, negatives, world)) for seed in self.seeds])

    def answered(self, samples: Samples, under: Under = ()) -> YesNo:
        return pope(self.model, samples, under=under, batch=self.batch)

    def answer_figures(self, gate: str, about: str, results: Results, absent: Results | None = None) -> list[Figure]:
        """An accuracy and all that stands beside it; mean margins of absent partners and of other absent nouns."""
        found = [results.figure(gate, about, measure, self.resamples) for measure in BESIDE]
        groups = {"margin_if_no": results}
        if absent is not None:
            groups["margin_of_partners"] = combined(lambda one, mask: of(one, mask & ~one.truth), results, absent)
            groups["margin_of_others"] = combined(lambda one, mask: of(one, ~mask & ~one.truth), results, absent)
        for name, own in groups.items():
            figure = own.figure(gate, about, "margin_if_no", self.resamples)
            found.append(replace(figure, measure=name))
        return found

    def partners(self, negatives: str, world: World) -> Results:
        """Which questions are about a partner whose anchor is there and that is not."""
        each = tuple(missing_partner(self.questions(seed, negatives, world)) for seed in self.seeds)
        return Results(each, np.concatenate(each))


def missing_partner(samples: Samples) -> np.ndarray:
    return np.array([facts["noun"] in facts["missing"] for facts in samples.facts], bool)


def of(answers: YesNo, mask: np.ndarray) -> YesNo:
    """Some of the answers."""
    clusters = tuple(name for name, kept in zip(answers.clusters, mask, strict=True) if kept)
    return YesNo(answers.margins[mask], answers.truth[mask], answers.valid[mask], clusters)
