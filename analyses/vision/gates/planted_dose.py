"""G8, with sinks planted in empty cells: the more of their attention VAR moves, the more of the loss it gives back, but
only where the paper's choice of rows lets it."""

from dataclasses import replace

import numpy as np

from headlens.analyses.vision.gates.figures import Condition, Figure, Gate, above, at_most, judged
from headlens.analyses.vision.gates.results import Means, Recovered, combined, over_seeds
from headlens.analyses.vision.gates.setting import CLEAR, Setting
from headlens.analyses.vision.measures.pope import word_tokens
from headlens.analyses.vision.redistribution.planted_sinks import (
    PlantedSinks,
    Reached,
    divergence_of,
    free_patches,
    next_token,
    reached,
)
from headlens.analyses.vision.samples import Samples

SCORE, SINKS = 6.0, 3
MOVES = (0.2, 0.4, 0.6, 0.8, 1.0)
EVERY_ROW, PAPER = {"non_sink": 0.0, "floor": 0.0}, {"non_sink": 0.5, "floor": 0.2}
# Claimed of the paper's rule under the planting: it reaches less than this share of what sinks hold.
REACH = 0.1
LOSSES = ("margin", "KL")


def planted_dose(setting: Setting) -> tuple[list[Figure], Gate, Gate]:
    """Questions about clear scenes of PRIOR whose absent nouns are drawn at random; three empty cells of each picture
    get 6 on their scores in all layers but the first.

    Lost, and recovered, is the mean margin of the right answer over the wrong one, and KL(clean | edited) of the next
    token. With a score of 0 nothing is planted: the cells are then sinks by name only, and moving what little they have
    shows what VAR does to a model that nothing ails.
    """
    sides: dict[str, list[Means]] = {}
    reach: dict[str, list[Reached]] = {}
    for seed in setting.seeds:
        setting.say(f"seed {seed}: planted sinks")
        _one_seed(setting, seed, sides, reach)
    results = {name: over_seeds(own) for name, own in sides.items()}
    n, figures = setting.resamples, []
    for name, own in results.items():
        figures += [own.figure("G8", name, measure, n) for measure in ("margin", "KL", "right")]
    recovered: dict[str, list[Figure]] = {}
    for name in results:
        if ", moved" in name and name.startswith("planted"):
            for loss in LOSSES:
                shares = combined(
                    lambda *own, loss=loss: _recovered(loss, *own),
                    *(results[arm] for arm in ("clean", "planted", name)),
                )
                own = shares.figure("G8", name, "recovered", n)
                recovered.setdefault(loss, []).append(replace(own, measure=f"recovered {loss}"))
    figures += [one for own in recovered.values() for one in own]
    figures += [
        _reach(name, one, [getattr(seed, one) for seed in own])
        for name, own in reach.items()
        for one in ("rows", "attention", "on_sinks")
    ]
    return figures, *dose_and_rule(figures, recovered)


def dose_and_rule(figures: list[Figure], recovered: dict[str, list[Figure]]) -> tuple[Gate, Gate]:
    """Both gates from the recovered shares by loss, in the order of what is moved, and from what the rule reaches."""
    margins = [one for one in recovered["margin"] if one.about.startswith("planted, every row")]
    steps = [
        Figure("G8", f"{later.about} over {one.about.rsplit(', ', 1)[1]}", "gain", later.value - one.value)
        for one, later in zip(margins, margins[1:], strict=False)
    ]
    claim = (
        "planted sinks, every row: recovered margin rises with each step of what is moved, and is above 0 at all of it"
    )
    lowest = replace(margins[-1], value=margins[-1].low, measure="lower bound of recovered margin")
    conditions: list[Condition] = [above(lowest, 0.0), *(above(one, 0.0) for one in steps)]
    series = {
        loss: ", ".join(f"{one.value:.2f}" for one in own if "every row" in one.about)
        for loss, own in recovered.items()
    }
    moved = ", ".join(f"{move:g}" for move in MOVES)
    said = [f"recovered {loss} at {moved}: {values}" for loss, values in series.items()]
    dose = judged("G8 dose", claim, conditions, *said)
    held = {one.about: one for one in figures if one.measure == "sinks' attention in rows chosen"}
    planted, clean = held["rows under the planting"], held["rows without it"]
    rows = {one.about: one for one in figures if one.measure == "rows chosen"}
    inert = next(one for one in recovered["margin"] if one.about.startswith("planted, paper's rule, moved 1"))
    claim = (
        f"the paper's rule rejects what sinks captured: it chooses rows with less than {REACH:.0%} of their attention"
    )
    rule = judged(
        "G8 rule",
        claim,
        [at_most(planted, REACH)],
        f"of the sinks' attention {planted.value:.3f} is in chosen rows ({clean.value:.3f} without the planting); rows "
        f"chosen {rows[planted.about].value:.3f} ({rows[clean.about].value:.3f}); recovered margin {inert.value:.3f}",
    )
    return dose, rule


def _one_seed(setting: Setting, seed: int, sides: dict[str, list[Means]], reach: dict[str, list[Reached]]) -> None:
    model, samples = setting.model, setting.questions(seed, "random", CLEAR, setting.few)
    cells = [{*facts["cells"].values()} for facts in samples.facts]
    keys, layers = free_patches(model, samples, cells, SINKS, seed), tuple(range(1, model.n_layers))
    planted, nothing = PlantedSinks(keys, SCORE, layers), PlantedSinks(keys, 0.0, layers)
    clean = next_token(model, samples, batch=setting.batch)

    def note(name, under=()):
        said = clean if name == "clean" else next_token(model, samples, under, setting.batch)
        sides.setdefault(name, []).append(_side(setting, samples, clean, said))

    def moved(where, move, rule):
        return lambda indices: where.redistributed(model, indices, move=move, **rule)

    note("clean")
    note("planted", planted.edits)
    for move in MOVES:
        note(f"planted, every row, moved {move:g}", moved(planted, move, EVERY_ROW))
    for move in (MOVES[2], MOVES[-1]):
        note(f"planted, paper's rule, moved {move:g}", moved(planted, move, PAPER))
    note(f"not planted, every row, moved {MOVES[-1]:g}", moved(nothing, MOVES[-1], EVERY_ROW))
    for name, where in {"rows under the planting": planted, "rows without it": nothing}.items():
        reach.setdefault(name, []).append(reached(model, samples, where, batch=setting.batch, **PAPER))


def _side(setting: Setting, samples: Samples, clean: np.ndarray, said: np.ndarray) -> Means:
    yes, no = (said[:, [*word_tokens(setting.model, word)]] for word in ("yes", "no"))
    margin = np.logaddexp.reduce(yes.astype(np.float64), 1) - np.logaddexp.reduce(no.astype(np.float64), 1)
    right = margin * np.array([1 if answer == "yes" else -1 for answer in samples.answers])
    numbers = {"margin": right, "KL": divergence_of(clean, said), "right": (right > 0).astype(np.float64)}
    return Means(numbers, samples.clusters)


def _recovered(loss: str, clean: Means, planted: Means, edited: Means) -> Recovered:
    if loss == "KL":
        return Recovered(planted.numbers["KL"], edited.numbers["KL"], clean.clusters)
    whole = clean.numbers["margin"]
    return Recovered(whole - planted.numbers["margin"], whole - edited.numbers["margin"], clean.clusters)


def _reach(name: str, what: str, values: list[float]) -> Figure:
    named = {"rows": "rows chosen", "attention": "sinks' attention in rows chosen", "on_sinks": "attention on sinks"}
    return Figure("G8", name, named[what], float(np.mean(values)), least=min(values), most=max(values))
