"""What a model chooses: the logits of each prompt's choices, which prompts it gets right, and how clearly.

A choice is right where its logit is above those of all other choices of its prompt; whatever else the vocabulary
holds does not count.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.equal_lengths import of_equal_length, tokens_together
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.apply import Edit
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model


def choice_logits(
    logits: Float[Tensor, "*cell prompt vocabulary"], task: ChoiceTask
) -> Float[Tensor, "*cell prompt choice"]:
    """The logits of each prompt's choices, from those at its last token; -inf where a prompt has fewer choices.

    ValueError for logits of another number of prompts, or of a vocabulary that lacks a choice.
    """
    if logits.ndim < 2 or logits.shape[-2] != len(task):
        raise ValueError(
            f"The logits have the shape {[*logits.shape]}; expected [..., prompt, vocabulary] with the {len(task)} "
            f"prompts of {task.name!r}."
        )
    task.check_vocabulary(logits.shape[-1])
    choices = task.choices.to(logits.device).expand(*logits.shape[:-1], -1)
    return logits.gather(-1, choices.clamp(min=0)).masked_fill(choices == -1, -torch.inf)


def correct(chosen: Float[Tensor, "*cell prompt choice"], task: ChoiceTask) -> Bool[Tensor, "*cell prompt"]:
    """Whether the right choice has the highest of the `choice_logits`; a tie is wrong. ValueError for a NaN."""
    right, others = _right_and_others(chosen, task)
    if chosen.isnan().any():
        prompt = int(chosen.isnan().any(-1).reshape(-1, len(task)).any(0).nonzero()[0])
        raise ValueError(f"The logits of prompt {prompt} are NaN, so nothing was chosen; look for what broke the run.")
    return right > others.amax(-1)


def choice_log_prob(chosen: Float[Tensor, "*cell prompt choice"], task: ChoiceTask) -> Float[Tensor, "*cell prompt"]:
    """The log probability of the right choice among the prompt's choices, in nats, from the `choice_logits`.

    At most 0; larger is better. Unlike `correct` it is smooth, so that it has a gradient.
    """
    right, _ = _right_and_others(chosen, task)
    return right - chosen.logsumexp(-1)


def _right_and_others(chosen: Tensor, task: ChoiceTask) -> tuple[Tensor, Tensor]:
    """The logit of the right choice [*cell, prompt], and all with -inf in its place [*cell, prompt, choice]."""
    if chosen.ndim < 2 or chosen.shape[-2:] != task.choices.shape:
        raise ValueError(
            f"The logits of the choices have the shape {[*chosen.shape]}; expected [..., prompt, choice] with the "
            f"{[*task.choices.shape]} of {task.name!r}, as choice_logits and choice_runs return them."
        )
    answers = task.answers.to(chosen.device)[:, None].expand(*chosen.shape[:-1], 1)
    return chosen.gather(-1, answers)[..., 0], chosen.scatter(-1, answers, -torch.inf)


def choice_runs(
    model: Model, task: ChoiceTask, edits: Sequence[Edit] = (), batch_tokens: int = 4096
) -> Float[Tensor, "prompt choice"]:
    """Run every prompt once, under these edits, and keep its `choice_logits`: float32, on the CPU.

    Prompts of equal length run together, without padding, as many as `batch_tokens` tokens allow. ValueError for a
    task of another vocabulary; RuntimeError for an edit that never took effect.
    """
    task.check_vocabulary(vocabulary_of(model))
    last_alone = known_words(model.hf, logits_to_keep=1)
    found = torch.full(task.choices.shape, -torch.inf)
    with torch.no_grad(), model.edited(*edits) if edits else nullcontext():
        for prompts, length in of_equal_length(task.lengths, tokens_together(batch_tokens)):
            logits = model(task.tokens[prompts, :length], **last_alone)[:, -1]
            part = choice_logits(logits, task.subset(prompts)).float().cpu()
            found[prompts, : part.shape[1]] = part
    return found
