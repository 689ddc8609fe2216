"""Does a head choose among options in a few dimensions? Its query and key, projected (2307.09458)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.multiple_choice.estimates import estimate
from headlens.analyses.multiple_choice.options import MEASURE, Options, options_of
from headlens.analyses.multiple_choice.projected_heads import Basis, ProjectedRun, Projection, bases_of, projected_runs
from headlens.analyses.provenance import origin
from headlens.analyses.splits import halves
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.sites import parse_heads

if TYPE_CHECKING:
    import pandas

SUBSPACES = ("singular", "random")
# Which keys of END's row are projected.
KEYS = ("row", "letters")
MEASURES = ("letters_kept", "row_kept", "moved", "accuracy", "logit_diff")


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is left of heads whose query and key are projected, on the prompts that the subspace was not made from.

    `samples[measure]` [prompt, head, rank, subspace, keys], of the subspaces "singular" and "random" (the mean of the
    draws) and of all keys ("row") and those at the letters alone ("letters").
    `plain[measure]` [prompt] is the model without a projection: accuracy and logit_diff. `energy` [head, rank, 2] is
    the part of the variance of query and key, on the prompts that the subspace was made from, that is inside.
    """

    heads: tuple[str, ...]
    ranks: tuple[int, ...]
    samples: Mapping[str, np.ndarray]
    plain: Mapping[str, np.ndarray]
    energy: np.ndarray
    clusters: tuple[str, ...]
    units: Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per head, keys, subspace and rank: each measure with its bounds; plain_accuracy and plain_logit_diff
        of the same prompts beside it, logit_diff_change (projected minus plain, paired), and query_energy and
        key_energy of the singular subspace."""
        import pandas

        sizes = (len(self.heads), len(KEYS), len(SUBSPACES), len(self.ranks))
        cells = [*product(*map(range, sizes))]
        columns: dict[str, Any] = {
            "head": [self.heads[head] for head, _, _, _ in cells],
            "keys": [KEYS[keys] for _, keys, _, _ in cells],
            "subspace": [SUBSPACES[kind] for _, _, kind, _ in cells],
            "rank": [self.ranks[rank] for _, _, _, rank in cells],
        }
        change = self.samples["logit_diff"] - self.plain["logit_diff"].reshape(-1, 1, 1, 1, 1)
        for name, samples in {**self.samples, "logit_diff_change": change}.items():
            ordered = samples.transpose(0, 1, 4, 3, 2)
            columns |= {
                key: each.ravel() for key, each in estimate(ordered, self.clusters, level).columns(name).items()
            }
        columns |= {f"plain_{name}": each.mean() for name, each in self.plain.items()}
        for side, name in enumerate(("query_energy", "key_energy")):
            columns[name] = [np.nan if kind else self.energy[head, rank, side] for head, _, kind, rank in cells]
        return pandas.DataFrame(columns)


def low_rank(
    model: Model,
    task: Task,
    heads: Sequence[Any] | str,
    ranks: Sequence[int] = range(1, 9),
    *,
    draws: int = 5,
    seed: int = 0,
    memory: str | int = "1GiB",
) -> LowRank:
    """Project each head's query at END and its keys onto a few directions, and see what the head still does.

        q' = mean + (q - mean) V V^T,    V: the top right singular vectors of the centred queries at END

    and the same for keys, with the mean and the singular vectors of the keys at the options' letters (a pair of bases
    for each head, made from one half of the clean prompts). On the other half END's whole row of scores is made again
    from q' and the keys k' (all of them, or those at the letters alone), with the model's own scale, mask and cap,
    through the softmax to z, and on through the layers behind. Nothing but END's row of the one head is changed.

    Args:
        heads: such as `letter_roles(..).of("correct letter")`.
        ranks: how many directions.
        draws: how many random subspaces of the same rank (of the head's whole space, about the same means) stand
            beside the singular ones, of which the mean is reported; bounds are over prompts, not over draws. seed: of
            these, and of the halves.
        memory: bound on what a run holds; more prompts than fit run one group after the other.

    Returns:
        LowRank, `.to_frame()`: for each head, keys, subspace and rank, as means over held-out prompts

        - letters_kept: share of prompts whose most attended letter is still the same one. Chance is 1 / options, but a
          head that attends to one letter whichever is right keeps it by little.
        - row_kept: share of prompts whose most attended position, of the whole row, is still the same.
        - moved: share of END's attention that is elsewhere than before (0: none; half the sum of |differences|).
        - accuracy: share of prompts whose right letter is the likeliest of the letters, in the model with this head.
        - logit_diff: logit of the right letter minus the mean of the others, positive for the right one.

    The paper says of a head of Chinchilla that 3 dimensions of query and key are nearly without loss. The directions
    are those of the letters' keys; a head that parks its attention elsewhere may lose that where all keys are
    projected, though it still tells letters apart, so both are measured.
    Query and key are taken behind the rotation, where there is one, so positions that vary between prompts take
    dimensions of their own.

    Raises:
        ValueError: for a task without options or of fewer than 4 prompts, ranks below 1 or above what half the prompts
            or the head's size allow, draws below 1, heads that there are not, and a model whose layers cannot be run
            from END alone.
    """
    refuse_unfit(model, task)
    named, options = parse_heads(heads, model.n_layers, model.n_heads), options_of(model, task)
    made_from, held_out = (half.tolist() for half in halves(len(task), task.templates, options.right.tolist(), seed))
    wanted = tuple(int(rank) for rank in ranks)
    largest = min(model.d_head, len(made_from) - 1)
    if not named or not wanted or draws < 1:
        raise ValueError(
            f"{len(named)} heads, {len(wanted)} ranks and draws={draws} were given; expected one or more of each."
        )
    if min(wanted) < 1 or max(wanted) > largest:
        raise ValueError(
            f"Ranks from {min(wanted)} to {max(wanted)} were given; {len(made_from)} prompts and heads of "
            f"{model.d_head} dimensions have room for 1 to {largest}. Give other ranks or more prompts."
        )
    bases = bases_of(model, task.subset(made_from), _of(options, made_from), named, memory)
    projections = [_projections(basis, wanted, draws, seed + at) for at, basis in enumerate(bases)]
    own = task.subset(held_out)
    shape = (len(own), len(named), len(KEYS), len(wanted), 1 + draws)
    found = {name: np.zeros(shape, np.float32) for name in MEASURES}
    plain = {name: np.zeros(len(own), np.float32) for name in MEASURES[-2:]}
    kept = _of(options, held_out)
    for run in projected_runs(model, own, kept, named, projections, memory):
        rows = [*run.prompts]
        for name, each in _measured(run, _of(kept, rows)).items():
            found[name][rows] = each[:, :, 1:].reshape(len(rows), *shape[1:])
            if name in plain:
                plain[name][rows] = each[:, 0, 0]
    samples = {
        name: np.stack([each[..., 0], each[..., 1:].mean(-1)], -1).transpose(0, 1, 3, 4, 2)
        for name, each in found.items()
    }
    energy = np.array([[basis.energy(rank) for rank in wanted] for basis in bases], np.float32)
    about = {**origin(model, task), "run": "clean", "paper": "2307.09458", "draws": draws, "seed": seed}
    about |= {"made_from": made_from, "held_out": held_out}
    units = dict.fromkeys(("letters_kept", "row_kept", "accuracy"), "share of prompts")
    units |= {"moved": "share of END's attention", "logit_diff": f"logits ({MEASURE})"}
    return LowRank(tuple(map(str, named)), wanted, samples, plain, energy, own.templates, units, about)


def _of(options: Options, rows: list[int]) -> Options:
    tensors = (getattr(options, name)[rows] for name in ("tokens", "letter_at", "content_at", "right"))
    return Options(options.letters[rows], *tensors)


def _projections(basis: Basis, ranks: Sequence[int], draws: int, seed: int) -> list[Projection]:
    """For each of `KEYS` and each rank the singular subspaces, and then the random ones, the same for both."""
    draw = torch.Generator().manual_seed(seed)
    of_row = [
        projection
        for rank in ranks
        for projection in (basis.singular(rank), *(basis.random(rank, draw) for _ in range(draws)))
    ]
    return [*of_row, *(replace(projection, letters_alone=True) for projection in of_row)]


def _measured(run: ProjectedRun, options: Options) -> Mapping[str, np.ndarray]:
    """Each measure [prompt, head, variant]; the first variant is the head itself."""
    scores, pattern, logits = run.scores, run.pattern, run.logits
    letters = scores.gather(-1, options.letter_at[:, None, None].expand(*scores.shape[:3], -1)).argmax(-1)
    most = scores.argmax(-1)
    right = options.right[:, None, None, None].expand(*logits.shape[:3], 1)
    own = logits.gather(-1, right)[..., 0]
    others = logits.scatter(-1, right, -torch.inf).amax(-1)
    found = {
        "letters_kept": letters == letters[:, :, :1],
        "row_kept": most == most[:, :, :1],
        "moved": (pattern - pattern[:, :, :1]).abs().sum(-1) / 2,
        "accuracy": own > others,
        "logit_diff": (options.items * own - logits.sum(-1)) / (options.items - 1),
    }
    return {name: each.float().numpy() for name, each in found.items()}
