"""G4: few heads see, and the model needs them: vision-aware head divergence beside the cost of silencing each head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from headlens.analyses.headmap import HeadMap
from headlens.analyses.rank_correlation import correlation_interval, spearman
from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.gates.figures import Figure, Gate, at_least, judged
from headlens.analyses.vision.gates.results import Results, over_seeds
from headlens.analyses.vision.gates.setting import CLEAR, Setting
from headlens.hooks.edits import Ablate

PEAK, LAYERS, TIMES = 3.0, 2, 3.0
COSTS = ("points", "margin")
TOP, BOTTOM, EXCESS = "top quarter", "bottom half", "top - 3 bottom"
WAYS = ("deleted", "blank")


@dataclass(frozen=True, eq=False)
class HeadCosts:
    """Of each sample and head: its VHD, and what silencing the head costs: `points` of accuracy, from -1 to 1, and the
    `margin` of the right answer over the wrong one in logits; positive means that the head is needed.

    Heads are put in the order of their VHD over all samples, the same in every resample. "top quarter" is the mean cost
    of the quarter with most, "bottom half" of the half with least, and "top - 3 bottom" is defined where no ratio is.
    """

    vhd: Float[np.ndarray, "sample layer head"]
    points: Float[np.ndarray, "sample layer head"]
    margin: Float[np.ndarray, "sample layer head"]
    clusters: tuple[str, ...]

    @cached_property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        made: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            f"largest over median, layer {layer}": lambda weights, layer=layer: _peak(
                _means(weights, self.vhd[:, layer])
            )
            for layer in range(self.vhd.shape[1])
        }
        order = np.argsort(-self.vhd.astype(np.float64).mean(0).ravel(), kind="stable")
        top, bottom = order[: len(order) // 4], order[len(order) // 2 :]
        for name in COSTS:
            costs = getattr(self, name).reshape(len(self.clusters), -1)
            for group, heads in {TOP: top, BOTTOM: bottom}.items():
                own = costs[:, heads].mean(1)
                made[f"{group}, {name}"] = lambda weights, own=own: _means(weights, own[:, None])[..., 0]
            gap = costs[:, top].mean(1) - TIMES * costs[:, bottom].mean(1)
            made[f"{EXCESS}, {name}"] = lambda weights, own=gap: _means(weights, own[:, None])[..., 0]
        return made

    def is_of_same_samples(self, other: "HeadCosts") -> bool:
        return self.clusters == other.clusters


def seeing_heads(setting: Setting) -> tuple[list[Figure], Gate]:
    """G4, on questions about clear scenes of PRIOR whose absent nouns are drawn at random."""
    found: dict[str, Results] = {}
    costs = [_silenced(setting, seed) for seed in setting.seeds]
    for way in WAYS:
        setting.say(f"VHD, picture {way}")
        maps = [
            divergence(setting.model, _samples(setting, seed), without=way, batch=setting.batch, progress=False)
            for seed in setting.seeds
        ]
        each = [replace(cost, vhd=np.asarray(one.samples)) for cost, one in zip(costs, maps, strict=True)]
        found[way] = over_seeds(each)
    return needed_heads(found, setting.resamples)


def needed_heads(found: Mapping[str, Results], resamples: int) -> tuple[list[Figure], Gate]:
    """Figures and gate from the HeadCosts by each way of taking the picture away."""
    results = found["deleted"]
    peaks = [
        results.figure("G4", "VHD of questions", f"largest over median, layer {layer}", resamples)
        for layer in range(results.whole.vhd.shape[1])
    ]
    costs = {
        (group, name): results.figure("G4", "silencing heads by their VHD", f"{group}, {name}", resamples)
        for name in COSTS
        for group in (TOP, BOTTOM, EXCESS)
    }
    correlations = {(way, name): _correlation(found[way], way, name, resamples) for way in WAYS for name in COSTS}
    claim = (
        f"VHD of questions: largest head >= {PEAK:g} times the median in {LAYERS} layers or more; silencing the "
        f"quarter with most costs >= {TIMES:g} times as many points as the half with least"
    )
    peaked = sorted(peaks, key=lambda one: -one.value)[:LAYERS]
    conditions = [*(at_least(one, PEAK) for one in peaked), at_least(costs[EXCESS, "points"], 0.0)]
    said = [
        f"in {name} {costs[TOP, name].value:.3f} against {costs[BOTTOM, name].value:.3f}, rank correlation with VHD "
        f"over all heads {correlations['deleted', name].value:.2f}"
        for name in COSTS
    ]
    figures = [*peaks, *costs.values(), *correlations.values()]
    return figures, judged("G4", claim, conditions, *said)


def _samples(setting: Setting, seed: int):
    return setting.questions(seed, "random", CLEAR, setting.few)


def _silenced(setting: Setting, seed: int) -> HeadCosts:
    model, samples = setting.model, _samples(setting, seed)
    clean = setting.answered(samples)
    sign = np.where(clean.truth, 1.0, -1.0)
    points, margin = np.zeros((2, len(samples), model.n_layers, model.n_heads))
    for layer in range(model.n_layers):
        setting.say(f"seed {seed}: heads of layer {layer} one by one")
        for head in range(model.n_heads):
            without = setting.answered(samples, [Ablate((layer, head))])
            margin[:, layer, head] = sign * (clean.margins.astype(np.float64) - without.margins)
            points[:, layer, head] = (clean.yes == clean.truth).astype(float) - (without.yes == without.truth)
    return HeadCosts(np.zeros_like(points), points, margin, samples.clusters)


def _correlation(results: Results, way: str, name: str, resamples: int) -> Figure:
    """Spearman's correlation over all heads; its interval is reflected about the value, as noise draws it to 0."""
    values = [_spearman(one, name) for one in results.each]
    maps = [
        HeadMap.from_samples(
            getattr(results.whole, what).astype(np.float32),
            dims=("layer", "head"),
            name=what,
            units="as measured",
            sign="Larger means more.",
            clusters=results.whole.clusters,
            # of the same questions, so resampled together
            provenance={"task_hash": "questions of the gate"},
        )
        for what in ("vhd", name)
    ]
    found = correlation_interval(*maps, level=0.95, resamples=resamples, seed=0)
    low, high = (float("nan"),) * 2 if found is None else (float(found.low), float(found.high))
    about = f"VHD and cost in {name}, picture {way}"
    return Figure("G4", about, "rank correlation", _spearman(results.whole, name), low, high, min(values), max(values))


def _spearman(costs: HeadCosts, name: str) -> float:
    sides = (costs.vhd.astype(np.float64), getattr(costs, name))
    return float(spearman(*(side.mean(0).reshape(1, -1) for side in sides))[0])


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[*resample, cell], the mean of each cell."""
    return np.asarray(weights @ values.astype(np.float64) / weights.sum(-1, keepdims=True))


def _peak(means: np.ndarray) -> np.ndarray:
    return np.asarray(means.max(-1) / np.median(means, -1))
