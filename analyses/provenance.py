"""Where a result came from, in plain values that fit a file. No times: equal work gives equal files."""

import hashlib
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.task import Task
from headlens.hooks.model import Model


def origin(model: Model, task: Task | ChoiceTask) -> dict[str, Any]:
    """The part of a result's provenance that its model and task decide."""
    about = {"task": task.name, "task_hash": task.hash, "task_details": dict(task.details), "n_prompts": len(task)}
    return {**_model(model), **about, **_machine(model)}


def text_origin(model: Model, tokens: Tensor) -> dict[str, Any]:
    """The part of a result's provenance that its model and the token ids it read decide."""
    digest = hashlib.sha256(tokens.detach().cpu().numpy().astype("<i8").tobytes()).hexdigest()
    return {**_model(model), "tokens_hash": digest, "tokens_shape": [*tokens.shape], **_machine(model)}


def weights_origin(model: Model) -> dict[str, Any]:
    """The part of a result's provenance that its model decides, where it reads nothing."""
    return {**_model(model), **_machine(model)}


def _model(model: Model) -> dict[str, Any]:
    return {"model": model.name, "weights_hash": model.weights_hash}


def _machine(model: Model) -> dict[str, Any]:
    device = model.device
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {name: version(name) for name in ("headlens", "torch", "transformers")},
    }
