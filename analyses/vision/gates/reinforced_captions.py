"""G7: what VHR does to descriptions, with everything that CHAIR (1809.02156) must not stand without."""

from headlens.analyses.vision.divergence.reinforcement import reinforce
from headlens.analyses.vision.gates.figures import FAILS, HOLDS, UNDEFINED, Figure, Gate
from headlens.analyses.vision.gates.reinforced import ALPHA, LOSS, bounds, named
from headlens.analyses.vision.gates.results import Results, over_seeds
from headlens.analyses.vision.gates.setting import CLEARLY_PARTED, Setting
from headlens.analyses.vision.measures.chair import chair
from headlens.analyses.vision.measures.chair_result import Chair
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scenes import NOUNS
from headlens.analyses.vision.under import Under

MEASURES = ("chair_i", "chair_s", "recall", "object_f1", "partner_rate", "words", "truncated")
# What would be useful to lower.
FALLING = ("chair_i", "partner_rate")
LONGEST, PARTED_CAPTIONS = 60, "captions, parted, clear"


def described(setting: Setting, samples: Samples, under: Under = ()) -> Chair:
    """Greedy descriptions."""
    return chair(setting.model, samples, under=under, max_new_tokens=LONGEST, classes=NOUNS, batch=4 * setting.batch)


def reinforced_captions(setting: Setting) -> tuple[list[Figure], Gate, Results]:
    """G7 on descriptions of clear scenes whose partners are missing, heads chosen at the end of the request. Claimed is
    that nothing useful happens. Descriptions without edits come last."""
    each: dict[str, list[Chair]] = {}
    for seed in setting.seeds:
        setting.say(f"seed {seed}: descriptions under {named(ALPHA)} and its controls")
        samples = setting.descriptions(seed, CLEARLY_PARTED)
        chosen = reinforce(setting.model, samples, alpha=ALPHA, batch=4 * setting.batch, progress=False)
        arms: dict[str, Under] = {"none": (), named(ALPHA): chosen.edits}
        arms |= {f"{name} heads x{ALPHA:g}": own.edits for name, own in chosen.controls(1000 * seed).items()}
        for name, under in arms.items():
            each.setdefault(name, []).append(described(setting, samples, under))
    results, figures = {name: over_seeds(own) for name, own in each.items()}, []
    for name, own in results.items():
        about = f"{PARTED_CAPTIONS}: {name}"
        figures += [own.figure("G7", about, measure, setting.resamples) for measure in MEASURES]
        if name != "none":
            figures += [own.change("G7", about, m, results["none"], setting.resamples) for m in MEASURES]
    vhr = results[named(ALPHA)]
    for name in results:
        if "heads" in name:
            about = f"{PARTED_CAPTIONS}: {named(ALPHA)} beside {name}"
            figures += [vhr.change("G7", about, m, results[name], setting.resamples) for m in FALLING]
    return figures, null_in_captions(figures), results["none"]


def null_in_captions(figures: list[Figure]) -> Gate:
    """Fails where CHAIR_I or the partner rate falls, and falls further than under every control, both with an interval
    below 0, while recall falls by 0.02 at most."""
    vhr = f"{PARTED_CAPTIONS}: {named(ALPHA)}"
    change = {
        one.measure.removeprefix("change in "): one
        for one in figures
        if one.about == vhr and one.measure.startswith("change in ")
    }
    beside: dict[str, list[Figure]] = {name: [] for name in FALLING}
    for one in figures:
        if one.about.startswith(f"{vhr} beside "):
            beside[one.measure.removeprefix("change in ")].append(one)
    falls = [name for name in FALLING if all(one.high < 0 for one in (change[name], *beside[name]))]
    useful = bool(falls) and change["recall"].value >= -LOSS
    known = change["chair_i"].value == change["chair_i"].value
    said = [f"{name} {one.value:+.3f}{bounds(one)}" for name, one in change.items()]
    controls = [
        f"{one.about.removeprefix(f'{PARTED_CAPTIONS}: ')} {one.measure.removeprefix('change in ')} {one.value:+.3f}"
        for one in figures
        if one.measure in [f"change in {name}" for name in FALLING]
        and "heads" in one.about
        and "beside" not in one.about
    ]
    claim = (
        f"descriptions: at recall lost {LOSS:.2f} at most, VHR x{ALPHA:g} lowers neither CHAIR_I nor the partner rate "
        "further than its controls do"
    )
    verdict = FAILS if useful else HOLDS if known else UNDEFINED
    return Gate("G7", claim, verdict, f"changes: {', '.join(said)}; controls: {', '.join(controls) or 'none'}")
