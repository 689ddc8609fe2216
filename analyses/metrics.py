"""What a sweep measures: numbers read off the logits at each prompt's END position.

Most are larger for more of the clean behaviour; loss, rank and kl are smaller. Either way an effect, as a fraction of
the clean-corrupted difference, is positive where it goes towards clean (denoising) or away from it (noising).
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.task import Task
from headlens.hooks.nearest import did_you_mean

Logits = Float[Tensor, "*cell prompt token"]


@dataclass(frozen=True)
class Metric:
    """A number per prompt, from logits at END.

    `compute(logits, task, clean)` gets the logits of many patched runs [*cell prompt token], the task of these very
    prompts, and the clean run's logits [prompt token]; it returns [*cell prompt]. The tokens are those that
    `tokens(task)` [prompt, token] asks for, or (None) the whole vocabulary. `smooth` says whether a gradient of it
    means anything. `key` is what tells one function from another in a file.
    """

    name: str
    units: str
    compute: Callable[[Tensor, Task, Tensor], Tensor]
    tokens: Callable[[Task], Int[Tensor, "prompt token"]] | None = None
    smooth: bool = True
    key: str = ""


def _answer_and_foil(task: Task) -> Int[Tensor, "prompt 2"]:
    return torch.stack([task.answers, task.foils], 1)


def _logit_diff(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    return logits[..., 0] - logits[..., 1]


def _log_prob(logits: Logits, task: Task) -> Float[Tensor, "*cell prompt"]:
    return _of_answer(logits, task) - logits.logsumexp(-1)


def _prob(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    return _log_prob(logits, task).exp()


def _loss(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    return -_log_prob(logits, task)


def _prob_diff(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    signs = torch.zeros(len(task), logits.shape[-1], dtype=logits.dtype)
    for prompt, (right, wrong) in enumerate(zip(task.answer_sets, task.foil_sets, strict=True)):
        signs[prompt, list(right)], signs[prompt, list(wrong)] = 1, -1
    return (logits.softmax(-1) * signs.to(logits.device)).sum(-1)


def _rank(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    return (logits > _of_answer(logits, task)[..., None]).sum(-1).to(logits.dtype)


def _kl(logits: Logits, task: Task, clean: Tensor) -> Float[Tensor, "*cell prompt"]:
    wanted = clean.log_softmax(-1)
    return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)


def _of_answer(logits: Logits, task: Task) -> Float[Tensor, "*cell prompt"]:
    answers = task.answers.to(logits.device)[:, None].expand(*logits.shape[:-1], 1)
    return logits.gather(-1, answers)[..., 0]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("logit_diff", "logits (answer minus foil)", _logit_diff, _answer_and_foil),
        Metric("prob", "probability of the answer", _prob),
        Metric("prob_diff", "probability (answers minus foils)", _prob_diff),
        Metric("rank", "places of the answer behind the first", _rank, smooth=False),
        Metric("loss", "nats (minus log probability of the answer)", _loss),
        Metric("kl", "nats (KL divergence from the clean run's distribution)", _kl),
    )
}

AnyMetric = str | Metric | Callable[[Tensor, Task], Tensor]


def named(metric: AnyMetric) -> Metric:
    """A metric by name, or of the user's own making.

    A function `f(logits, task)` gets logits [..., prompt, vocabulary] at END and the task of these prompts, and returns
    [..., prompt]. ValueError names the nearest metric.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return _users(metric)
    if metric in METRICS:
        return METRICS[metric]
    hint = did_you_mean(metric, METRICS)
    raise ValueError(
        f"Unknown metric {metric!r}{hint}; the metrics are {', '.join(METRICS)}, or a function of (logits, task)."
    )


def chosen(metric: AnyMetric | Sequence[AnyMetric]) -> tuple[Metric, ...]:
    """One metric or several, by name or as functions; ValueError for none, or for two of one name."""
    several = [metric] if isinstance(metric, str | Metric) or callable(metric) else list(metric)
    metrics = tuple(named(each) for each in several)
    names = [each.name for each in metrics]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"The metrics {names} were given; expected at least one, each once.")
    return metrics


def tokens_of(metrics: Sequence[Metric], task: Task) -> Int[Tensor, "prompt token"] | None:
    """The tokens whose logits these metrics read, or None where one of them reads the whole vocabulary."""
    asked = [metric.tokens(task) for metric in metrics if metric.tokens is not None]
    return torch.cat(asked, 1) if len(asked) == len(metrics) else None


def measured(
    metrics: Sequence[Metric], logits: Logits, task: Task, clean: Tensor
) -> Float[Tensor, "*cell prompt metric"]:
    """Every metric of the logits of the tokens that `tokens_of` names."""
    whole, at, found = tokens_of(metrics, task) is None, 0, []
    for metric in metrics:
        own, of_clean = logits, clean
        if metric.tokens is not None:
            wanted = metric.tokens(task).to(logits.device)
            own, of_clean = (
                each.gather(-1, wanted.expand(*each.shape[:-1], -1)) if whole else each[..., at : at + wanted.shape[1]]
                for each in (logits, clean)
            )
            at += wanted.shape[1]
        values = metric.compute(own, task, of_clean)
        if values.shape != logits.shape[:-1]:
            raise ValueError(
                f"The metric {metric.name!r} returned shape {tuple(values.shape)} for logits {tuple(logits.shape)}; "
                "expected one number for each run and prompt: all axes but the last."
            )
        found.append(values)
    return torch.stack(found, -1)


def _users(function: Callable[[Tensor, Task], Tensor]) -> Metric:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        key = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        key = "source unknown"
    return Metric(name, f"units of {name}", lambda logits, task, clean: function(logits, task), key=key)
