"""Where a result came from, in plain values that fit a file: model, task, versions, device."""

from importlib.metadata import version
from typing import Any

import torch

from headlens.analyses.tasks import Task
from headlens.hooks.model import Model


def origin(model: Model, task: Task) -> dict[str, Any]:
    """The part of a result's provenance that its model and task decide. No times: equal work gives equal files."""
    device = model.device
    return {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "task": task.name,
        "task_hash": task.hash,
        "task_details": dict(task.details),
        "n_prompts": len(task),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {name: version(name) for name in ("headlens", "torch", "transformers")},
    }
