"""G5 and G6: does vision-aware head reinforcement (VHR, 2412.13949) take away what the habit adds, and by seeing?

An edit that makes every yes less likely also lowers false positives. So beside its controls stands a constant on the
yes-logit that sees nothing, and beside every accuracy the area under the curve, which no constant moves.
"""

from dataclasses import dataclass, field, replace

from headlens.analyses.vision.divergence.reinforcement import Reinforcement, reinforce
from headlens.analyses.vision.gates.figures import HOLDS, UNDEFINED, Condition, Figure, Gate, at_least, at_most, judged
from headlens.analyses.vision.gates.results import Results, combined, over_seeds, pooled
from headlens.analyses.vision.gates.setting import CLEARLY_PARTED, Setting, of
from headlens.analyses.vision.measures.yes_no import YesNo, fitted_constant
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scenes import PRIOR

ALPHA, SERIES, DRAWS = 2.0, (0.5, 2.0, 3.0, 4.0), 3
FALL, LOSS, CONTROL = 0.20, 0.02, 0.10
# Two results are compared at this recall, each by the threshold that gives it.
MATCHED = 0.98
FITTED_ON, APART = 50, 500
GROUNDING, SHIFT, NOTHING = "grounding", "bias shift", "no change of decisions"
# What is decided, and not how surely.
DECISIONS = ("accuracy", "false_positive_rate", "recall")
_CHANGES = ("accuracy", "false_positive_rate", "recall", "auroc", "margin_if_yes", "margin_if_no")


@dataclass(frozen=True, eq=False)
class Arms:
    """Answers under each edit by its name, "none" among them."""

    answers: dict[str, Results]
    partners: Results
    figures: list[Figure] = field(default_factory=list)

    def figure(self, about: str, measure: str) -> Figure:
        return next(one for one in self.figures if one.about == about and one.measure == measure)


def reinforced(setting: Setting, plain: Results) -> tuple[list[Figure], list[Gate]]:
    """G5 and G6 on the adversarial questions about clear scenes whose partners are missing; `plain` are the answers to
    them without edits."""
    each: dict[str, list[YesNo]] = {}
    for seed in setting.seeds:
        samples = setting.questions(seed, "adversarial", CLEARLY_PARTED)
        for name, edit in _edits(setting, seed, samples).items():
            setting.say(f"seed {seed}: {name}")
            each.setdefault(name, []).append(setting.answered(samples, edit.edits))
    answers = {"none": plain, **{name: over_seeds(own) for name, own in each.items()}}
    answers |= _constants(setting, plain)
    arms = Arms(answers, setting.partners("adversarial", CLEARLY_PARTED))
    for name, own in answers.items():
        describe_edit(setting, arms, name, own)
    _on_trained_contrast(setting, arms)
    return arms.figures, [reduces(arms), reading(arms)]


def named(alpha: float) -> str:
    return f"VHR x{alpha:g}"


def _edits(setting: Setting, seed: int, samples: Samples) -> dict[str, Reinforcement]:
    made = {}
    for alpha in SERIES:
        setting.say(f"seed {seed}: heads for {named(alpha)}")
        made[named(alpha)] = reinforce(setting.model, samples, alpha=alpha, batch=setting.batch, progress=False)
    chosen = made[named(ALPHA)]
    for draw in range(DRAWS):
        made[f"random heads x{ALPHA:g}, draw {draw + 1}"] = chosen.controls(1000 * seed + draw)["random"]
    rest = chosen.controls()
    made[f"lowest heads x{ALPHA:g}"] = rest["lowest"]
    made[f"all heads x{ALPHA:g}"] = rest["all"]
    return made


def _constants(setting: Setting, plain: Results) -> dict[str, Results]:
    """One constant for all seeds, so that areas stay as they are: fitted on few questions of the trained world, and,
    as the most that a constant could do, on adversarial questions about parted scenes. Both of scenes that nothing else
    here asks about."""
    setting.say("constants on the yes-logit")
    share, few = -(-FITTED_ON // len(setting.seeds)), []
    for seed in setting.seeds:
        questions = setting.questions(seed + APART, "random", PRIOR, share)
        few.append(setting.answered(questions.subset(range(min(share, len(questions))))))
    most = setting.answered(setting.questions(setting.seeds[0] + APART, "adversarial", CLEARLY_PARTED))
    fitted = {
        f"constant fitted on {FITTED_ON} trained-world questions": fitted_constant(pooled(few)),
        "constant fitted on parted questions (upper bound)": fitted_constant(most),
    }
    return {
        f"{name}, {constant:+.2f}": combined(lambda one, constant=constant: one.shifted(constant), plain)
        for name, constant in fitted.items()
    }


def describe_edit(setting: Setting, arms: Arms, name: str, own: Results) -> None:
    """All measures of one edit, their change from none, and false positives at a recall that is the same for all."""
    about, n, plain = f"parted, clear, adversarial: {name}", setting.resamples, arms.answers["none"]
    arms.figures.extend(setting.answer_figures("G5", about, own, arms.partners))
    matched = combined(lambda one: one.at_recall(MATCHED), own)
    rate = matched.figure("G5", about, "false_positive_rate", n)
    arms.figures.append(replace(rate, measure=f"false_positive_rate at recall {MATCHED:g}"))
    if name != "none":
        arms.figures.extend([own.change("G5", about, measure, plain, n) for measure in _CHANGES])
        before = combined(lambda one: one.at_recall(MATCHED), plain)
        rate = matched.change("G5", about, "false_positive_rate", before, n)
        arms.figures.append(replace(rate, measure=f"change in false_positive_rate at recall {MATCHED:g}"))
        for group, keep in {"partners": True, "others": False}.items():
            sides = [
                combined(lambda one, mask, keep=keep: of(one, (mask == keep) & ~one.truth), side, arms.partners)
                for side in (own, plain)
            ]
            margin = sides[0].change("G5", about, "margin_if_no", sides[1], n)
            arms.figures.append(replace(margin, measure=f"change in margin_of_{group}"))


def _on_trained_contrast(setting: Setting, arms: Arms) -> None:
    """What VHR costs where the model is at home."""
    about = "as trained, adversarial: "
    plain = setting.answers("adversarial", PRIOR)
    each = []
    for seed in setting.seeds:
        setting.say(f"seed {seed}: {named(ALPHA)} on scenes as trained")
        samples = setting.questions(seed, "adversarial", PRIOR)
        edit = reinforce(setting.model, samples, alpha=ALPHA, batch=setting.batch, progress=False)
        each.append(setting.answered(samples, edit.edits))
    edited = over_seeds(each)
    arms.figures.extend(setting.answer_figures("G5", f"{about}none", plain))
    arms.figures.extend(setting.answer_figures("G5", f"{about}{named(ALPHA)}", edited))
    for measure in _CHANGES:
        arms.figures.append(edited.change("G5", f"{about}{named(ALPHA)}", measure, plain, setting.resamples))


def reduces(arms: Arms) -> Gate:
    """G5: by value, as its thresholds are stated."""
    parted = "parted, clear, adversarial: "
    vhr = f"{parted}{named(ALPHA)}"
    rate, recall = arms.figure(vhr, "change in false_positive_rate"), arms.figure(vhr, "change in recall")
    conditions: list[Condition] = [at_most(rate, -FALL), at_least(recall, -LOSS)]
    heads = [name for name in arms.answers if " heads x" in name]
    controls = [arms.figure(parted + name, "change in false_positive_rate") for name in heads]
    conditions += [at_least(one, -CONTROL) for one in controls]
    claim = (
        f"VHR x{ALPHA:g} on the last half of the layers lowers adversarial false positives by {FALL:.2f} or more, with "
        f"recall lost {LOSS:.2f} at most; random, lowest and all heads by {CONTROL:.2f} at most"
    )
    remarks = [f"VHR {rate.value:+.3f}", *(_control(one, parted) for one in controls)]
    return judged("G5", claim, conditions, ", ".join(remarks), *_beside_constants(arms, parted))


def _control(figure: Figure, parted: str) -> str:
    return f"{figure.about.removeprefix(parted)} {figure.value:+.3f}"


def _beside_constants(arms: Arms, parted: str) -> list[str]:
    """Whether a constant does as well: no more false positives and no less recall than VHR, within 0.02."""
    said = []
    vhr = {name: arms.figure(f"{parted}{named(ALPHA)}", name).value for name in ("false_positive_rate", "recall")}
    for name in arms.answers:
        if not name.startswith("constant"):
            continue
        own = {measure: arms.figure(parted + name, measure).value for measure in vhr}
        as_low = own["false_positive_rate"] <= vhr["false_positive_rate"] + LOSS
        as_well = as_low and own["recall"] >= vhr["recall"] - LOSS
        rates = f"false positives {own['false_positive_rate']:.3f}, recall {own['recall']:.3f}"
        said.append(f"the {name} {'matches' if as_well else 'does not match'} VHR ({rates})")
    return said


def reading(arms: Arms) -> Gate:
    """G6: the word for what VHR does, and whether all that must stand beside an accuracy does."""
    about = f"parted, clear, adversarial: {named(ALPHA)}"
    changes = {name: arms.figure(about, f"change in {name}") for name in ("auroc", *DECISIONS)}
    area = changes.pop("auroc")
    words = [word_for(area, *changes.values())]
    alone = {one.about for one in arms.figures if one.measure == "accuracy"}
    beside = ("auroc", "recall", "yes_ratio", "margin_if_yes", "margin_if_no")
    there = {(one.about, one.measure) for one in arms.figures}
    complete = all((name, measure) in there for name in alone for measure in beside)
    claim = "beside each accuracy stand AUROC, recall, yes ratio and margins; grounding only if AUROC rises"
    words.append(f"change in AUROC {area.value:+.4f}" + bounds(area))
    before = arms.figure("parted, clear, adversarial: none", "auroc")
    if before.value > 0.999:
        words.append(f"from {before.value:.4f}, which leaves it no room to rise")
    return Gate("G6", claim, HOLDS if complete else UNDEFINED, f"VHR x{ALPHA:g} is: {', '.join(words)}")


def word_for(area: Figure, *decisions: Figure) -> str:
    """ "grounding" only where the AUROC rises with its interval above 0, else "bias shift"; where no change of what is
    decided has an interval away from 0, neither."""
    if area.low > 0:
        return GROUNDING
    return SHIFT if any(one.low > 0 or one.high < 0 for one in (area, *decisions)) else NOTHING


def bounds(figure: Figure) -> str:
    """The interval in brackets, nothing where there is none."""
    return "" if figure.low != figure.low else f" [{figure.low:+.4f}, {figure.high:+.4f}]"
