"""Heads whose query at END and keys lie in a subspace: the subspaces, END's row, and the model with such a head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.equal_lengths import of_equal_length
from headlens.analyses.multiple_choice.options import Options
from headlens.analyses.task import Task
from headlens.hooks.base_run import Base, bytes_per_prompt, record_base
from headlens.hooks.entering import Entry
from headlens.hooks.inputs import known_words
from headlens.hooks.intercept import Attention
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.reading import Read
from headlens.hooks.record import parse_bytes
from headlens.hooks.replay import replay
from headlens.hooks.sites import Head

# How far logits that are replayed without a change may be from the model's own, relative to their size.
_EXACT = {torch.float32: 1e-4, torch.float64: 1e-4}
_EXACT_IN_HALF = 0.1


@dataclass(frozen=True, eq=False)
class Subspace:
    """Vectors are moved onto mean + span(directions); directions are orthonormal."""

    mean: Float[Tensor, " d_head"]
    directions: Float[Tensor, "d_head rank"]

    def onto(self, vectors: Float[Tensor, "... d_head"]) -> Float[Tensor, "... d_head"]:
        mean, directions = (each.to(vectors.device) for each in (self.mean, self.directions))
        return (mean + (vectors.double() - mean) @ directions @ directions.T).to(vectors.dtype)


@dataclass(frozen=True, eq=False)
class Projection:
    """What is done to a head's query and to its keys: to all of them, or to those at the letters alone."""

    query: Subspace
    key: Subspace
    letters_alone: bool = False


@dataclass(frozen=True, eq=False)
class Basis:
    """All singular directions of a head's centred queries and keys, the strongest first, in float64."""

    query: Subspace
    key: Subspace
    query_values: Float[Tensor, " rank"]
    key_values: Float[Tensor, " key_rank"]

    @classmethod
    def of(cls, queries: Float[Tensor, "row d_head"], keys: Float[Tensor, "row_of_keys d_head"]) -> "Basis":
        (query, query_values), (key, key_values) = (_decomposed(vectors.double()) for vectors in (queries, keys))
        return cls(query, key, query_values, key_values)

    def singular(self, rank: int) -> Projection:
        """The strongest directions of each."""
        query, key = (Subspace(side.mean, side.directions[:, :rank]) for side in (self.query, self.key))
        return Projection(query, key)

    def random(self, rank: int, draw: torch.Generator) -> Projection:
        """Random directions for each, about the same means."""
        sides = []
        for side in (self.query, self.key):
            drawn = torch.randn(len(side.mean), rank, generator=draw, dtype=torch.float64)
            sides.append(Subspace(side.mean, torch.linalg.qr(drawn).Q))
        query, key = sides
        return Projection(query, key)

    def energy(self, rank: int) -> tuple[float, float]:
        """The part of the queries' and of the keys' variance that the strongest directions have."""
        squares = (values.square() for values in (self.query_values, self.key_values))
        query, key = (float(each[:rank].sum() / each.sum()) for each in squares)
        return query, key


@dataclass(frozen=True, eq=False)
class ProjectedRun:
    """Some prompts with each head as it is (the first variant) and projected: END's row before and after the softmax,
    and the letters' logits."""

    prompts: tuple[int, ...]
    scores: Float[Tensor, "prompt head variant key"]
    pattern: Float[Tensor, "prompt head variant key"]
    logits: Float[Tensor, "prompt head variant item"]


def bases_of(model: Model, task: Task, options: Options, heads: Sequence[Head], memory: str | int) -> tuple[Basis, ...]:
    """The basis of each head, from its queries at END and its keys at the letters of all these prompts."""
    queries: list[list[Tensor]] = [[] for _ in heads]
    keys: list[list[Tensor]] = [[] for _ in heads]
    for prompts, base in _base_runs(model, task, memory):
        letters = options.letter_at[prompts]
        for at, head in enumerate(heads):
            query, key = _of_head(base.layers[head.layer].call, head.head)
            queries[at].append(query[:, 0].cpu())
            keys[at].append(key.cpu()[torch.arange(len(key))[:, None], letters].flatten(0, 1))
    return tuple(Basis.of(torch.cat(query), torch.cat(key)) for query, key in zip(queries, keys, strict=True))


def projected_runs(
    model: Model,
    task: Task,
    options: Options,
    heads: Sequence[Head],
    projections: Sequence[Sequence[Projection]],
    memory: str | int,
) -> Iterator[ProjectedRun]:
    """Run the prompts with END's row of one head at a time made from each of its projections.

    A layer's attention output gets what the head then says differently, times its part of the output projection, and
    the model goes on from there at END alone. ValueError if that, without a change, is not what the model says.
    """
    for prompts, base in _base_runs(model, task, memory):
        tokens, letter_at = (each[prompts].to(model.device) for each in (options.tokens, options.letter_at))
        own = _own_logits(model, base.tokens, tokens)
        found = [_projected(model, base, tokens, letter_at, *each) for each in zip(heads, projections, strict=True)]
        for _, _, logits in found:
            _refuse_inexact(model, logits[:, 0], own)
        yield ProjectedRun(tuple(prompts), *(torch.stack(each, 1) for each in zip(*found, strict=True)))


@torch.no_grad()
def _own_logits(
    model: Model, tokens: Int[Tensor, "prompt pos"], letters: Int[Tensor, "prompt item"]
) -> Float[Tensor, "prompt item"]:
    """What the model itself says for the letters, at the last position."""
    logits = model.hf(input_ids=tokens, use_cache=False, **known_words(model.hf, logits_to_keep=1)).logits[:, -1]
    return logits.gather(1, letters.to(logits.device)).float().cpu()


@torch.no_grad()
def _projected(
    model: Model,
    base: Base,
    letters: Int[Tensor, "prompt item"],
    letter_at: Int[Tensor, "prompt item"],
    head: Head,
    projections: Sequence[Projection],
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and pattern [prompt, variant, key], and logits [prompt, variant, item]; the first variant is the head."""
    kept, weights = base.layers[head.layer], model.layers[head.layer].output_weights(model.n_heads)[head.head]
    calls = [_alone(kept.call, head.head, letter_at, each) for each in (None, *projections)]
    scores, pattern = (
        torch.stack([rows[:, 0, 0].float().cpu() for rows in each], 1)
        for each in zip(*((call.scores(), call.pattern()) for call in calls), strict=True)
    )
    said = torch.stack([call.z()[:, :, 0] for call in calls])
    attended = first_tensor(kept.attention_out)
    entry = Entry("attention", attended + ((said - said[:1]).to(weights.device) @ weights).to(attended))
    logits = replay(model, base, {head.layer: entry}, base.start, Read(letters), {})[:, :, -1]
    return scores, pattern, logits.transpose(0, 1).float().cpu()


def _base_runs(model: Model, task: Task, memory: str | int) -> Iterator[tuple[list[int], Base]]:
    """Plain runs of the clean prompts, cut at END and kept from there on, as many at a time as fit."""
    bound = parse_bytes(memory)

    def at_once(length: int) -> int:
        return len(task) if bound is None else bound // bytes_per_prompt(model, length)

    for prompts, length in of_equal_length(task.positions["END"] + 1, at_once):
        yield prompts, record_base(model, task.clean_tokens[prompts, :length].to(model.device), length - 1)


def _of_head(call: Attention, head: int) -> tuple[Float[Tensor, "prompt 1 d_head"], Float[Tensor, "prompt key d_head"]]:
    """A query head's own query and the keys that it reads, which grouped heads share."""
    group = call.query.shape[1] // call.key.shape[1]
    return call.query[:, head], call.key[:, head // group]


def _alone(
    call: Attention, head: int, letter_at: Int[Tensor, "prompt item"], projection: Projection | None
) -> Attention:
    """The call of one head, projected or as it is."""
    n_heads, at = call.query.shape[1], slice(head, head + 1)
    shared = head // (n_heads // call.key.shape[1])
    query, key = _of_head(call, head)
    if projection is not None:
        query, projected = projection.query.onto(query), projection.key.onto(key)
        if projection.letters_alone:
            rows = torch.arange(len(key), device=key.device)[:, None], letter_at.to(key.device)
            projected = key.index_put(rows, projected[rows])
        key = projected
    mask, bias = (each if each is None or each.shape[1] == 1 else each[:, at] for each in (call.mask, call.bias))
    sinks = None if call.sinks is None else call.sinks[at]
    value = call.value[:, shared : shared + 1]
    return replace(call, query=query[:, None], key=key[:, None], value=value, mask=mask, bias=bias, sinks=sinks)


def _decomposed(vectors: Float[Tensor, "row d_head"]) -> tuple[Subspace, Float[Tensor, " rank"]]:
    mean = vectors.mean(0)
    _, values, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
    return Subspace(mean, directions.T), values


def _refuse_inexact(model: Model, replayed: Float[Tensor, "prompt item"], own: Float[Tensor, "prompt item"]) -> None:
    off = float((replayed - own).abs().max())
    if off > _EXACT.get(model.dtype, _EXACT_IN_HALF) * max(1.0, float(own.abs().max())):
        raise ValueError(
            f"{type(model.hf).__name__} does not run from END alone as it runs whole (its letters' logits are off by "
            f"{off:.2g}), so the model with a projected head cannot be told."
        )
