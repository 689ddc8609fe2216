"""What every head's attention rows are like: how spread out, how much on the first token, the one before, copies ...

No pattern is stored: rows pass by in blocks and leave sums, so that memory grows with a text's length and not with its
square.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import text_origin
from headlens.analyses.row_readings import OF_COPIES, Statistic
from headlens.analyses.row_tally import Tally
from headlens.analyses.stats_asked import Asked, asked
from headlens.analyses.watched_run import WatchedRun, n_prompts, parts, read_by, refuse_unlike, watched_run
from headlens.hooks.attention_taps import Watch
from headlens.hooks.clock import Clock, ticking
from headlens.hooks.group_masks import note_massive
from headlens.hooks.groups import Image, Massive, TokenIds
from headlens.hooks.inputs import Tokens
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.taps import Tap, Where
from headlens.hooks.token_kinds import Resolving

DEFAULT = ("entropy", "first_token", "previous_token")


def head_stats(
    model: Model,
    tokens: Tokens,
    what: str | Sequence[str] = DEFAULT,
    *,
    groups: Mapping[str, Any] | None = None,
    other: Tokens | None = None,
    batch: int | None = None,
    progress: bool = True,
) -> dict[str, HeadMap]:
    """Statistics of every head's attention rows on these prompts, in memory that is linear in their length.

    The rows are those of the main tower, after what an outer `model.edited(...)` does to them. Padding counts for
    nothing, as a row and as a key. Over (layer, head), as means over the rows that see two keys or more:

    - "entropy": -sum of A ln A over keys, in nats.
    - "first_token", "previous_token", "self": attention to the prompt's first token, the token before the row's own,
      and the row's own.
    - "distance": |query - key| in tokens, weighted by attention.
    - "divergence": Jensen-Shannon divergence between a row and the same row of the run of `other`, in nats (at most
      ln 2).
    - each of `groups`: attention to its keys.

    As means over the rows that see such a key, NaN for a prompt without any:

    - "duplicate": attention to earlier copies of the row's own token.
    - "induction": attention to the tokens right behind earlier copies (2209.11895). An image's patches are no copies.

    For each token:

    - "received", over (layer, head, key): attention that a key gets, a mean over the rows that see it.
    - "top_key" and "top_mass", over (layer, head, query): the position that a row attends to most, and its share.

    A learned sink (gpt-oss) is no key: shares, entropy and divergence are sums over keys, and rows sum to less than 1.

    Args:
        tokens: text, texts, ids or a processor's output, as `model` runs on. Where prompts are padded, it needs their
            attention mask; `key` and `query` count padding.
        what: one name or several.
        groups: named groups of keys, each what an edit takes as one: "punctuation", positions, a function, what
            `find_sinks` returned ... They may overlap.
        other: for "divergence", the other run's prompts, of the same lengths and padding.
        batch: how many prompts run at a time; without it, as many as have 8,192 tokens together.

    Returns:
        A HeadMap by name. `samples` are each prompt's own numbers, and `values` their mean.

    Raises:
        ValueError: for an unknown statistic or group, "divergence" without `other` or `other` without it, runs that
            differ in shape, copies of tokens in a model without token ids, no tokens, and more of them than the model
            has positions for.
    """
    run = watched_run(model, tokens)
    compared = None if other is None else watched_run(model, other)
    wanted = asked(what, groups, Resolving(model.tokenizer, model.hf.config), n_prompts(run))
    _check(wanted, run, compared, batch)
    statistics, runs = wanted.about(slice(None)), 1 if compared is None else 2
    found: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    with tqdm(total=n_prompts(run), unit=" prompts", desc="head_stats", disable=not progress) as bar:
        for prompts, part in parts(run, compared, batch):
            tally = Tally(wanted.about(prompts, runs), prompts.stop - prompts.start, _image_token(model))
            _read(part, tally, wanted)
            for name, samples in found.items():
                samples.append(tally.means(name, model.n_layers, _length(run)))
            bar.update(tally.prompts)
    about = text_origin(model, read_by(run))
    if compared is not None:
        about["other_hash"] = text_origin(model, read_by(compared))["tokens_hash"]
    return {
        name: _map(name, statistics[name], np.concatenate(samples), {**about, **wanted.described(name)})
        for name, samples in found.items()
    }


def _check(wanted: Asked, run: WatchedRun, compared: WatchedRun | None, batch: int | None) -> None:
    copies = [name for name in OF_COPIES if name in wanted.named]
    if run.ids is None and copies:
        raise ValueError(f"{copies[0]!r} is about copies of tokens, and this run has no token ids; leave it out.")
    if (compared is None) == ("divergence" in wanted.named):
        raise ValueError(
            "'divergence' is between the run of tokens and that of other=; "
            + ("give the other run's prompts." if compared is None else "name it in what=, or leave other= out.")
        )
    if compared is not None:
        refuse_unlike(run, compared)
    if batch is not None and batch < 1:
        raise ValueError(f"batch={batch} was given; expected how many prompts run at a time, at least 1.")


def _read(run: WatchedRun, tally: Tally, wanted: Asked) -> None:
    """Let every layer's rows pass by the tally, and note massive activations where a group is about them."""
    model, layers = run.model, range(run.model.n_layers)
    watches = [Watch(Site("pattern", layer), tally.look, "head_stats", tally.at_once) for layer in layers]
    with ticking(model.hf) as clock:
        notes = [
            Tap(Site("resid_pre", layer), partial(_note, group, clock), "head_stats", observes=True)
            for group in wanted.massive
            for layer in layers
        ]
        run([*notes, *watches])


def _note(group: Massive, clock: Clock, resid: Tensor, where: Where) -> Tensor:
    note_massive(group, where.layer(), resid, clock)
    return resid


def _image_token(model: Model) -> int | None:
    try:
        group = Resolving(None, model.hf.config)(Image())
    except ValueError:
        return None
    return group.ids[0] if isinstance(group, TokenIds) else None


def _length(run: WatchedRun) -> int | None:
    """Tokens of a prompt, padding counted, where that is known before the run."""
    return next((tensor.shape[1] for tensor in (run.ids, run.real) if tensor is not None), None)


def _map(name: str, statistic: Statistic, samples: np.ndarray, about: Mapping[str, Any]) -> HeadMap:
    """Samples [prompt, layer, head, place], with one place only where the statistic has no dim for it."""
    return HeadMap.from_samples(
        samples if len(statistic.dims) == 3 else samples[..., 0],
        dims=statistic.dims,
        name=name,
        units=statistic.units,
        sign=statistic.sign,
        provenance={**about, "statistic": name},
    )
