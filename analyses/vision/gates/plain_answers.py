"""G1 and G2: the model answers well, and errs where its world's habit points; the twin without the habit does not."""

from headlens.analyses.vision.gates.figures import Figure, Gate, at_least, below, judged, number
from headlens.analyses.vision.gates.results import Beside, Results, combined
from headlens.analyses.vision.gates.setting import CLEAR, CLEARLY_PARTED, SPLITS, Setting
from headlens.analyses.vision.scenes.scenes import World

ACCURACY, RATE, TIMES, TWIN_TIMES = 0.95, 0.40, 5.0, 2.0


def answered_well(setting: Setting, world: World = CLEAR) -> tuple[list[Figure], Gate]:
    """G1: POPE's accuracy on clear pictures of the world that the model was trained on, on each of the three splits."""
    figures = []
    for split in SPLITS:
        figures += setting.answer_figures("G1", f"as trained, clear, {split}", setting.answers(split, world))
    accuracies = [one for one in figures if one.measure == "accuracy"]
    claim = f"accuracy >= {ACCURACY:.2f} on each split of clear scenes of its own world"
    return figures, judged("G1", claim, [at_least(one, ACCURACY) for one in accuracies])


def misled(setting: Setting, twin: bool = False) -> tuple[list[Figure], Gate, Results]:
    """G2: false positives where an anchor's partner is missing, beside those about nouns drawn at random.

    Both splits ask about the same scenes. The ratio of two rates is not defined where the second is 0, and says little
    where it rests on few answers; "excess", the first - times (5, for the twin 2) the second, is defined there too, and
    is below 0 where the ratio is below times. The answers of the adversarial split come last.
    """
    times, figures, found = TWIN_TIMES if twin else TIMES, [], {}
    partners = setting.partners("adversarial", CLEARLY_PARTED)
    for split in ("random", "adversarial"):
        found[split] = setting.answers(split, CLEARLY_PARTED)
        absent = partners if split == "adversarial" else None
        figures += setting.answer_figures("G2", f"parted, clear, {split}", found[split], absent)
    rates = combined(
        lambda one, other: Beside(one, other, "false_positive_rate", times), found["adversarial"], found["random"]
    )
    about = "false positives, adversarial beside random"
    beside = [rates.figure("G2", about, name, setting.resamples) for name in ("ratio", "difference", "excess")]
    figures += beside
    rate = next(one for one in figures if one.about.endswith("adversarial") and one.measure == "false_positive_rate")
    ratio, _, excess = beside
    wrong = int(found["random"].whole.yes[~found["random"].whole.truth].sum())
    said = (
        f"ratio {number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}], resting on {wrong} false positives"
    )
    said += " of the random split"
    if twin:
        claim = f"twin without the habit: adversarial false positives < {TWIN_TIMES:g} times those of the random split"
        # without any false positive there is no ratio to be below anything
        condition = below(excess, 0.0) if wrong or rate.value > 0 else below(ratio, TWIN_TIMES)
        return figures, judged("G2 twin", claim, [condition], said), found["adversarial"]
    claim = (
        f"parted, clear: adversarial false positives >= {RATE:.2f}, and >= {TIMES:g} times those of the random split"
    )
    return figures, judged("G2", claim, [at_least(rate, RATE), at_least(excess, 0.0)], said), found["adversarial"]
