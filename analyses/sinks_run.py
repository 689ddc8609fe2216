"""The search for attention sinks in many prompts, kept on disk by the batch, so that a run that is killed goes on."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.fitness import refuse_too_long
from headlens.analyses.prompt_tokens import prompt_tokens
from headlens.analyses.prompts import Prompts
from headlens.analyses.sinks import check as check_rule
from headlens.analyses.sinks_found import Sinks
from headlens.analyses.sinks_gathered import SinksGathered, sinks_in
from headlens.analyses.watched_run import watched_run
from headlens.hooks.model import Model
from headlens.hooks.sink_rule import SinkRule


def sinks_run(
    model: Model,
    prompts: Prompts,
    rule: SinkRule | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Sinks:
    """What `find_sinks` finds by a rule (without one: SinkRule()), on prompts of any lengths.

    `run` is a folder that keeps each finished batch of prompts; a run that was stopped goes on there. ValueError as for
    `find_sinks`, and for a folder that holds another run.
    """
    rule = SinkRule() if rule is None else rule
    check(model, prompts, rule)
    count, longest = prompts.tokens.shape
    gathered = SinksGathered(count, longest)
    provenance = {"analysis": "find_sinks", **prompts.about}
    identity = {**provenance, "rule": rule.plain()}
    store = nullcontext(NotKept()) if run is None else Checkpoint.open(Path(run), identity, resume)
    with store as chunks, tqdm(total=count, unit=" prompts", disable=not progress) as bar:
        bar.set_description(f"finding sinks in {prompts.name}")
        for number, (together, length) in enumerate(prompts.batches()):
            tokens = prompts.tokens[together, :length]
            chunk = chunks.kept(f"prompts{number:05d}", partial(sinks_in, watched_run(model, tokens), rule))
            gathered.add(together, chunk)
            bar.update(len(together))
    texts = prompt_tokens(model.tokenizer, prompts.tokens, torch.arange(longest) < prompts.lengths[:, None])
    return gathered.result(rule, texts, provenance, prompts.templates)


def check(model: Model, prompts: Prompts, rule: SinkRule) -> None:
    """ValueError for a model that cannot have such sinks, or has too few positions for these prompts."""
    check_rule(model, rule)
    refuse_too_long(model, prompts.tokens.shape[1])
