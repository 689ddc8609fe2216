"""Each gate on made-up numbers: holding, and failing when what it claims is taken away."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from headlens.analyses.vision.gates.figures import Figure
from headlens.analyses.vision.gates.natural_sinks import null_of_redistribution
from headlens.analyses.vision.gates.plain_answers import answered_well, misled
from headlens.analyses.vision.gates.planted_dose import dose_and_rule
from headlens.analyses.vision.gates.reinforced import Arms, describe_edit, reading, reduces, word_for
from headlens.analyses.vision.gates.reinforced_captions import null_in_captions
from headlens.analyses.vision.gates.results import Means, Results, over_seeds
from headlens.analyses.vision.gates.seeing_heads import HeadCosts, needed_heads
from headlens.analyses.vision.gates.setting import Setting
from headlens.analyses.vision.gates.told_prior import habit_told
from made_answers import answers

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Said(Setting):
    """A setting whose model answers each split as it is told to."""

    rates: dict = field(default_factory=dict)

    def answers(self, negatives, world):
        given = self.rates.get(negatives, {})
        return over_seeds([answers(seed, **given) for seed in self.seeds])

    def partners(self, negatives, world):
        mask = np.arange(40) >= 30
        return Results((mask, mask), np.concatenate([mask, mask]))


def said(**rates):
    return Said(None, (1, 2), resamples=50, rates=rates)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ({"random": {}, "popular": {"fpr": 0.1}, "adversarial": {"fpr": 0.1}}, "holds"),
        ({"random": {}, "popular": {"fpr": 0.15}, "adversarial": {}}, "fails"),
        ({"random": {"recall": 0.85}}, "fails"),
    ],
    ids=["holds", "one split", "recall"],
)
def test_g1(rates, verdict):
    figures, gate = answered_well(said(**rates))
    assert gate.verdict == verdict
    assert {"accuracy", "auroc", "recall", "yes_ratio", "margin_if_yes"} <= {one.measure for one in figures}


@pytest.mark.parametrize(
    ("adversarial", "random", "twin", "verdict"),
    [
        (0.5, 0.1, False, "holds"),
        (0.5, 0.0, False, "holds"),
        (0.35, 0.05, False, "fails"),
        (0.5, 0.15, False, "fails"),
        (0.05, 0.05, True, "holds"),
        (0.1, 0.05, True, "fails"),
        (0.1, 0.0, True, "fails"),
        (0.0, 0.0, True, "not defined"),
    ],
    ids=["holds", "endless ratio", "few", "everywhere", "twin", "twin misled", "twin misled alone", "twin without any"],
)
def test_g2(adversarial, random, twin, verdict):
    figures, gate, last = misled(said(adversarial={"fpr": adversarial}, random={"fpr": random}), twin)
    assert gate.verdict == verdict and f"resting on {round(40 * random)} false positives" in gate.reading
    assert last.whole.false_positive_rate == pytest.approx(adversarial)
    ratio = next(one for one in figures if one.measure == "ratio")
    assert ratio.value == pytest.approx(adversarial / random if random else NAN, nan_ok=True)


@pytest.mark.parametrize(("chance", "verdict"), [(0.86, "holds"), (0.94, "holds"), (0.8, "fails"), (1.0, "fails")])
def test_g3(chance, verdict):
    numbers = {"P(with)": np.full(6, chance), "P(partner)": np.full(6, chance)}
    found = over_seeds([Means(numbers, tuple("abcdef"))])
    _, gate = habit_told(found, 0.9, 20)
    assert gate.verdict == verdict


def costs(peaks, top, bottom, n=12):
    """Eight heads of each layer: of two, one sees `peak` times as much as most, and to be without them costs `top`."""
    vhd = np.ones((n, len(peaks), 8)) + np.arange(8)[::-1] * 1e-3
    vhd[:, :, 0], vhd[:, :, 1] = peaks, 1.5
    cost = np.full(vhd.shape, bottom)
    cost[:, :, :2] = top
    noise = 1e-3 * np.random.default_rng(0).standard_normal(vhd.shape)
    return HeadCosts(vhd.astype(np.float32), cost + noise, 2 * cost, tuple(f"scene {at}" for at in range(n)))


@pytest.mark.parametrize(
    ("peaks", "top", "bottom", "verdict"),
    [
        ((1.6, 5.0, 4.0, 1.6), 0.1, 0.01, "holds"),
        ((1.6, 5.0, 2.0, 1.6), 0.1, 0.01, "fails"),
        ((1.6, 5.0, 4.0, 1.6), 0.02, 0.01, "fails"),
        ((1.6, 5.0, 4.0, 1.6), 0.1, -0.01, "holds"),
    ],
    ids=["holds", "one layer", "cheap", "bottom helps"],
)
def test_g4(peaks, top, bottom, verdict):
    found = over_seeds([costs(peaks, top, bottom)])
    figures, gate = needed_heads({"deleted": found, "blank": found}, 50)
    assert gate.verdict == verdict
    by = {(one.about, one.measure): one.value for one in figures}
    # the middle two of eight
    assert by["VHD of questions", "largest over median, layer 1"] == pytest.approx(peaks[1] / 1.0035, rel=1e-4)
    assert by["silencing heads by their VHD", "top quarter, points"] == pytest.approx(top, abs=2e-3)


def arms(vhr, control, fixed=None):
    """Answers without edits (half of what is false is answered yes), under VHR, and under a control."""
    given = {"none": {"fpr": 0.5}, "VHR x2": vhr, "random heads x2, draw 1": control}
    given["constant fitted on 50"] = fixed or {"fpr": 0.5}
    made = {name: over_seeds([answers(seed, n=20, **rates) for seed in (1, 2)]) for name, rates in given.items()}
    mask = np.arange(40) >= 30
    found = Arms(made, Results((mask, mask), np.concatenate([mask, mask])))
    for name, own in made.items():
        describe_edit(said(), found, name, own)
    return found


@pytest.mark.parametrize(
    ("vhr", "control", "verdict"),
    [
        ({"fpr": 0.2}, {"fpr": 0.45}, "holds"),
        ({"fpr": 0.4}, {"fpr": 0.5}, "fails"),
        ({"fpr": 0.2, "recall": 0.9}, {"fpr": 0.5}, "fails"),
        ({"fpr": 0.2}, {"fpr": 0.3}, "fails"),
    ],
    ids=["holds", "too little", "recall lost", "a control does it too"],
)
def test_g5(vhr, control, verdict):
    assert reduces(arms(vhr, control)).verdict == verdict


@pytest.mark.parametrize(
    ("fixed", "says"),
    [({"fpr": 0.2}, "matches VHR"), ({"fpr": 0.4}, "does not match"), ({"fpr": 0.0, "recall": 0.8}, "does not match")],
    ids=["as low", "higher", "recall lost"],
)
def test_a_constant_beside_vhr_is_said_to_match_or_not(fixed, says):
    gate = reduces(arms({"fpr": 0.2}, {}, fixed))
    assert f"the constant fitted on 50 {says}" in gate.reading


def test_g6_has_a_word_for_what_vhr_does_and_needs_what_stands_beside():
    found = arms({"fpr": 0.2}, {})
    gate = reading(found)
    assert gate.verdict == "holds" and "grounding" in gate.reading
    shifted = arms({"fpr": 0.5, "shift": -4.0}, {})
    assert "bias shift" in reading(shifted).reading
    lacking = replace(found, figures=[one for one in found.figures if one.measure != "yes_ratio"])
    assert reading(lacking).verdict == "not defined"


def changed(low, high, measure="change in auroc"):
    return Figure("G5", "an edit", measure, (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("area", "rate", "word"),
    [
        ((0.01, 0.02), (-0.3, -0.2), "grounding"),
        ((-0.01, 0.02), (-0.3, -0.2), "bias shift"),
        ((-0.02, -0.01), (-0.3, 0.2), "bias shift"),
        ((NAN, NAN), (-0.3, -0.2), "bias shift"),
        ((-0.01, 0.02), (-0.1, 0.2), "no change of decisions"),
        ((NAN, NAN), (NAN, NAN), "no change of decisions"),
    ],
)
def test_the_word_grounding_needs_an_area_that_rises(area, rate, word):
    assert word_for(changed(*area), changed(*rate)) == word


def captions(chair_i=(-0.02, 0.02), partner=(-0.05, 0.05), recall=0.0, beside=(-0.2, -0.1)):
    about = "captions, parted, clear: VHR x2"
    given = {"chair_i": chair_i, "partner_rate": partner}
    made = [Figure("G7", about, f"change in {name}", sum(own) / 2, *own) for name, own in given.items()]
    control = [Figure("G7", f"{about} beside random heads x2", f"change in {name}", -0.1, *beside) for name in given]
    return [*made, *control, Figure("G7", about, "change in recall", recall)]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "holds"),
        ({"chair_i": (-0.05, -0.01)}, "fails"),
        ({"partner": (-0.3, -0.1)}, "fails"),
        ({"chair_i": (-0.05, -0.01), "recall": -0.1}, "holds"),
        ({"chair_i": (-0.05, -0.01), "beside": (-0.1, 0.1)}, "holds"),
        ({"chair_i": (0.01, 0.05)}, "holds"),
        ({"chair_i": (NAN, NAN)}, "not defined"),
    ],
    ids=["null", "fewer", "fewer partners", "by saying less", "as controls do", "more", "unknown"],
)
def test_g7(given, verdict):
    assert null_in_captions(captions(**given)).verdict == verdict


@pytest.mark.parametrize(
    ("area", "flips", "verdict"),
    [
        ((-0.01, 0.01), 0.0, "holds"),
        ((0.01, 0.02), 0.0, "fails"),
        ((-0.01, 0.01), 0.02, "fails"),
        ((0.0, 0.0), NAN, "not defined"),
    ],
)
def test_g8_on_the_model_as_it_is(area, flips, verdict):
    figures = [changed(*area), Figure("G8", "an edit", "decisions flipped", flips)]
    assert null_of_redistribution(figures, "").verdict == verdict


@pytest.mark.parametrize(
    ("shares", "low", "reach", "verdicts"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), 0.4, 0.02, ("holds", "holds")),
        ((0.1, 0.2, 0.3, 0.4, 0.35), 0.2, 0.02, ("fails", "holds")),
        ((0.1, 0.2, 0.3, 0.4, 0.5), -0.1, 0.02, ("fails", "holds")),
        ((0.1, 0.2, 0.3, 0.4, 0.5), 0.4, 0.5, ("holds", "fails")),
    ],
    ids=["holds", "falls at the end", "nothing sure", "rule lets through"],
)
def test_g8_with_planted_sinks(shares, low, reach, verdicts):
    moves = (0.2, 0.4, 0.6, 0.8, 1)
    own = [
        Figure("G8", f"planted, every row, moved {move}", "recovered margin", share, low, share + 0.1)
        for move, share in zip(moves, shares, strict=True)
    ]
    own.append(Figure("G8", "planted, paper's rule, moved 1", "recovered margin", 0.01))
    rows = [
        Figure("G8", about, measure, value)
        for about, value in (("rows under the planting", reach), ("rows without it", 0.9))
        for measure in ("rows chosen", "sinks' attention in rows chosen")
    ]
    assert tuple(one.verdict for one in dose_and_rule(rows, {"margin": own})) == verdicts
