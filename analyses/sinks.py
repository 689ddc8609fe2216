"""Attention sinks: which tokens are sinks of which heads by a rule, with the evidence for it.

The rule is that of the Attention Calibration Technique (2406.15765), in its own form and two causal ones: see
`headlens.hooks.sink_rule`. Where an edit takes a group of keys, what `find_sinks` returns stands for its rule.
"""

import torch

from headlens.analyses.prompt_tokens import prompt_tokens
from headlens.analyses.provenance import text_origin
from headlens.analyses.sinks_found import Sinks
from headlens.analyses.sinks_gathered import SinksGathered, sinks_in
from headlens.analyses.watched_run import n_prompts, parts, read_by, watched_run
from headlens.hooks.inputs import Tokens
from headlens.hooks.model import Model
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import MAIN


def find_sinks(
    model: Model,
    tokens: Tokens,
    mode: str = "causal_column",
    alpha: float = 5.0,
    *,
    threshold: float | None = None,
    min_rows: int = 16,
    min_share: float = 0.2,
    first: bool = False,
    batch: int | None = None,
) -> Sinks:
    """Which tokens of these prompts are attention sinks of which heads, and how much attention they receive.

    A prompt's sinks depend on that prompt alone. Memory grows with length, not with its square.

    Args:
        tokens: text, texts, ids or a processor's output; padding counts for nothing.
        mode: "causal_column": at each row, keys whose attention per row so far exceeds alpha / T, T what the row sees.
            "prefill_column": the same over all rows of the prompt (2406.15765), so that later tokens decide too.
            "row": keys to which the row itself gives more than alpha / T.
        alpha: times the average attention (2406.15765 has 5).
        threshold: an absolute bound in place of alpha / T (2406.15765's code has 0.1).
        min_rows, min_share: a sink must have been seen by at least so many rows, and at least this share of the T rows.
            Without this guard (1 and 0), the newest tokens are sinks of every head that attends locally.
        first: whether the first token of a prompt may be a sink; in most heads it is one.
        batch: how many prompts run at a time; without it, as many as have 8,192 tokens together.

    Returns:
        `Sinks`, which edits take as a group: `Recalibrate(heads="all", donors=sinks, receivers="rest", beta=0.4,
        policy="transfer")`.

    Raises:
        ValueError: for an unknown mode or a bound that is not positive, no tokens or more than the model has positions
            for, a cache that was filled before, inputs that cannot be cut into batches, and a causal mode in an
            encoder, whose rows see the whole text.
    """
    rule = SinkRule(mode, alpha, threshold, min_rows, min_share, first)
    check(model, rule)
    run = watched_run(model, tokens)
    count = n_prompts(run)
    gathered = SinksGathered(count)
    for prompts, part in parts(run, None, batch):
        gathered.add(range(count)[prompts], sinks_in(part, rule))
    # where nobody speaks of padding there is none
    real = torch.ones(gathered.arrays["peak"].shape[::2], dtype=torch.bool) if run.real is None else run.real
    tokens_read = prompt_tokens(model.tokenizer, run.ids, real)
    return gathered.result(rule, tokens_read, text_origin(model, read_by(run)))


def check(model: Model, rule: SinkRule) -> None:
    """ValueError for a causal mode in a model that is not causal."""
    if rule.mode != "prefill_column" and not model.towers[MAIN].is_causal:
        raise ValueError(
            f"Mode {rule.mode!r} is about what a row has seen so far, and in {type(model.hf).__name__} every row sees "
            "the whole prompt; use mode='prefill_column'."
        )
