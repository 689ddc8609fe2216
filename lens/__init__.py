"""A workbench for attention heads: record, patch and recalibrate every head of a transformer.

The public names below load from their homes on first use, so that `import headlens` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlens.analyses import tasks as tasks
    from headlens.analyses.attribution import attribute as attribute
    from headlens.analyses.comparison import compare as compare
    from headlens.analyses.direct_logits import direct_logits as direct_logits
    from headlens.analyses.direct_parts import direct_parts as direct_parts
    from headlens.analyses.headmap import HeadMap as HeadMap
    from headlens.analyses.logit_lens import logit_lens as logit_lens
    from headlens.analyses.metrics import Metric as Metric
    from headlens.analyses.patching import patch_sweep as patch_sweep
    from headlens.analyses.tasks import Task as Task
    from headlens.analyses.until_sure import patch_until_sure as patch_until_sure
    from headlens.analyses.verification import verify as verify
    from headlens.figures import view as view
    from headlens.hooks.edits import Ablate as Ablate
    from headlens.hooks.edits import Call as Call
    from headlens.hooks.edits import Gate as Gate
    from headlens.hooks.edits import Patch as Patch
    from headlens.hooks.model import Model as Model
    from headlens.models import load as load

__version__ = "0.1.0"

__all__ = [
    "Ablate",
    "Call",
    "Gate",
    "HeadMap",
    "Metric",
    "Model",
    "Patch",
    "Task",
    "__version__",
    "attribute",
    "compare",
    "direct_logits",
    "direct_parts",
    "load",
    "logit_lens",
    "patch_sweep",
    "patch_until_sure",
    "tasks",
    "verify",
    "view",
]

_HOMES = {
    "Ablate": "headlens.hooks.edits",
    "Call": "headlens.hooks.edits",
    "Gate": "headlens.hooks.edits",
    "HeadMap": "headlens.analyses.headmap",
    "Metric": "headlens.analyses.metrics",
    "Model": "headlens.hooks.model",
    "Patch": "headlens.hooks.edits",
    "Task": "headlens.analyses.tasks",
    "attribute": "headlens.analyses.attribution",
    "compare": "headlens.analyses.comparison",
    "direct_logits": "headlens.analyses.direct_logits",
    "direct_parts": "headlens.analyses.direct_parts",
    "load": "headlens.models",
    "logit_lens": "headlens.analyses.logit_lens",
    "patch_sweep": "headlens.analyses.patching",
    "patch_until_sure": "headlens.analyses.until_sure",
    "verify": "headlens.analyses.verification",
    "view": "headlens.figures",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name == "tasks":
        return import_module("headlens.analyses.tasks")
    if name not in _HOMES:
        raise AttributeError(f"module 'headlens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
