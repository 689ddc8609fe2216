"""G8, on the model as it is: has it visual sinks, and does moving their attention (VAR, 2503.03321) change answers?"""

import numpy as np

from headlens.analyses.vision.gates.figures import FAILS, HOLDS, UNDEFINED, Figure, Gate
from headlens.analyses.vision.gates.reinforced import word_for
from headlens.analyses.vision.gates.results import Means, Results, combined, over_seeds
from headlens.analyses.vision.gates.setting import CLEARLY_PARTED, Setting
from headlens.analyses.vision.redistribution.image_centric import image_centric_heads
from headlens.analyses.vision.redistribution.redistribution import redistribute
from headlens.analyses.vision.redistribution.sink_dimensions import sink_dimensions, sink_threshold
from headlens.analyses.vision.redistribution.visual_sinks import visual_sinks
from headlens.hooks.groups import Massive
from headlens.hooks.recalibrate import Recalibrate

# Claimed is that fewer decisions than this flip.
FLIPS = 0.01
BINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SETTINGS = {
    "VAR as published (move 0.6, non-sink 0.5, floor 0.2)": {},
    "VAR in every row (move 1, no rule)": {"move": 1.0, "non_sink": 0.0, "floor": 0.0},
}
_CHANGES = ("accuracy", "auroc", "recall", "false_positive_rate", "margin_if_yes", "margin_if_no")


def natural_sinks(setting: Setting, plain: Results) -> tuple[list[Figure], Gate]:
    """Answers to the adversarial questions about parted scenes, `plain` without edits, under VAR.

    Sinks are those of the dimensions that are massive at the first token. Where none is, the two largest there serve,
    at the same threshold, and the gate's reading says so: fixed beforehand, never lowered until something appears. The
    paper leaves out layers 0, 1 and the last: of four layers, layer 2 alone is edited.
    """
    group, found = _sinks(setting)
    figures, shares = _patches(setting, group)
    words = []
    for name, given in SETTINGS.items():
        setting.say(name)
        edit = redistribute(setting.model, dims=group.dims, above=group.above, **given)
        results = _answered(setting, edit)
        flips = combined(_flipped, results, plain)
        about = f"parted, clear, adversarial: {name}"
        figures += setting.answer_figures("G8", about, results, setting.partners("adversarial", CLEARLY_PARTED))
        flip = flips.figure("G8", about, "decisions flipped", setting.resamples)
        changes = [results.change("G8", about, measure, plain, setting.resamples) for measure in _CHANGES]
        figures += [flip, *changes]
        area = changes[1]
        words.append(
            f"{name}: {flip.value:.4f} of decisions flip, AUROC {area.value:+.4f}, "
            f"{word_for(area, changes[0], *changes[2:4])}"
        )
    reading = "; ".join([found, f"sinks' share of patches (and of visual attention), by layer: {shares}", *words])
    return figures, null_of_redistribution(figures, reading)


def null_of_redistribution(figures: list[Figure], reading: str) -> Gate:
    """Fails where VAR raises AUROC, its interval above 0, or flips decisions, by value."""
    claim = f"no sinks worth moving: VAR flips less than {FLIPS:.0%} of decisions and does not raise AUROC"
    areas = [one for one in figures if one.measure == "change in auroc"]
    flips = [one for one in figures if one.measure == "decisions flipped"]
    useful = any(one.low > 0 for one in areas) or any(one.value >= FLIPS for one in flips)
    known = bool(flips) and all(one.value == one.value for one in flips)
    return Gate("G8 natural", claim, FAILS if useful else HOLDS if known else UNDEFINED, reading)


def _sinks(setting: Setting) -> tuple[Massive, str]:
    samples = setting.questions(setting.seeds[0], "adversarial", CLEARLY_PARTED)
    found = sink_dimensions(setting.model, samples)
    if found.dims:
        return found.group(), found.described()
    largest = np.argsort(-np.nanmedian(found.sizes, 0))[:2]
    dims, above = tuple(int(dim) for dim in largest), sink_threshold(setting.model.d_model)
    return Massive(dims, above), f"{found.described()} Taken instead: dimensions {dims}, above {above:.2f}"


def _patches(setting: Setting, group: Massive) -> tuple[list[Figure], str]:
    """The histogram of phi before each layer, the largest, and what attention those get that count as sinks."""
    phi: list[list[np.ndarray]] = []
    for seed in setting.seeds:
        samples = setting.questions(seed, "adversarial", CLEARLY_PARTED, setting.few)
        found = visual_sinks(setting.model, samples, group, batch=setting.batch)
        phi.append([own[:, image] for own, image in zip(found.phi, found.image, strict=True)])
    looks = [_looks(setting, seed, group) for seed in setting.seeds]
    figures, shares = [], []
    everything = [np.concatenate(own, 1) for own in phi]
    for layer in range(setting.model.n_layers):
        each = [own[layer] for own in everything]
        about = f"image patches before layer {layer}"
        bounds = [*zip(BINS, [*BINS[1:], group.above], strict=True), (group.above, np.inf)]
        for low, high in bounds:
            named = "threshold" if high == group.above else f"{high:g}"
            name = "phi above threshold" if high == np.inf else f"phi {low:g} to {named}"
            figures.append(_plain(about, name, [float(((own > low) & (own <= high)).mean()) for own in each]))
        shares.append(f"{figures[-1].value:.3f}")
        held = _plain(about, "sinks' share of visual attention", [1 - one["non_sink"][layer] for one in looks])
        figures += [held, _plain(about, "visual attention", [one["visual"][layer] for one in looks])]
        shares[-1] += f" ({held.value:.3f})"
        figures.append(_plain(about, "largest phi", [float(own.max()) for own in each], largest=True))
    return figures, ", ".join(shares)


def _looks(setting: Setting, seed: int, group: Massive) -> dict[str, np.ndarray]:
    """Over the heads of each layer, the share of attention to patches and, of that, of patches that are no sinks."""
    samples = setting.questions(seed, "adversarial", CLEARLY_PARTED, setting.few)
    found = image_centric_heads(setting.model, samples, group, batch=setting.batch)
    return {name: np.asarray(found[name].values, np.float64).mean(1) for name in ("visual", "non_sink")}


def _plain(about: str, measure: str, values: list[float], largest: bool = False) -> Figure:
    """A figure without an interval; seeds have as many patches each, or nearly."""
    value = max(values) if largest else float(np.mean(values))
    return Figure("G8", about, measure, value, least=min(values), most=max(values))


def _answered(setting: Setting, edit: Recalibrate) -> Results:
    seeds = setting.seeds
    return over_seeds(
        [setting.answered(setting.questions(seed, "adversarial", CLEARLY_PARTED), [edit]) for seed in seeds]
    )


def _flipped(one, other) -> Means:
    return Means({"decisions flipped": (one.yes != other.yes).astype(np.float64)}, one.clusters)
