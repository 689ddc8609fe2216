"""A workbench for attention heads: record, patch and recalibrate every head of a transformer.

The public names below load from their homes on first use, so that `import headlens` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlens.analyses import choice_tasks as choice_tasks
    from headlens.analyses import tasks as tasks
    from headlens.analyses.attention_statistics import head_stats as head_stats
    from headlens.analyses.attribution import attribute as attribute
    from headlens.analyses.calibration import calibrate as calibrate
    from headlens.analyses.choice_task import ChoiceTask as ChoiceTask
    from headlens.analyses.comparison import compare as compare
    from headlens.analyses.direct_logits import direct_logits as direct_logits
    from headlens.analyses.direct_parts import direct_parts as direct_parts
    from headlens.analyses.edit_losses import edit_losses as edit_losses
    from headlens.analyses.english import english_windows as english_windows
    from headlens.analyses.english import text_windows as text_windows
    from headlens.analyses.head_gating import gating_probe as gating_probe
    from headlens.analyses.headmap import HeadMap as HeadMap
    from headlens.analyses.logit_lens import logit_lens as logit_lens
    from headlens.analyses.metrics import Metric as Metric
    from headlens.analyses.patching import patch_sweep as patch_sweep
    from headlens.analyses.sinks import find_sinks as find_sinks
    from headlens.analyses.tasks import Task as Task
    from headlens.analyses.temperature import position_temperature as position_temperature
    from headlens.analyses.temperature import temperature_slopes as temperature_slopes
    from headlens.analyses.until_sure import patch_until_sure as patch_until_sure
    from headlens.analyses.verification import verify as verify
    from headlens.figures import view as view
    from headlens.hooks import groups as groups
    from headlens.hooks.edits import Ablate as Ablate
    from headlens.hooks.edits import Call as Call
    from headlens.hooks.edits import Gate as Gate
    from headlens.hooks.edits import Patch as Patch
    from headlens.hooks.model import Model as Model
    from headlens.hooks.norm_gate import NormGate as NormGate
    from headlens.hooks.recalibrate import Recalibrate as Recalibrate
    from headlens.hooks.report import Report as Report
    from headlens.hooks.row_edits import ForceRow as ForceRow
    from headlens.hooks.row_edits import KnockOut as KnockOut
    from headlens.hooks.row_edits import Temperature as Temperature
    from headlens.hooks.sink_rule import SinkRule as SinkRule
    from headlens.models import load as load

__version__ = "0.1.0"

__all__ = [
    "Ablate",
    "Call",
    "ChoiceTask",
    "ForceRow",
    "Gate",
    "HeadMap",
    "KnockOut",
    "Metric",
    "Model",
    "NormGate",
    "Patch",
    "Recalibrate",
    "Report",
    "SinkRule",
    "Task",
    "Temperature",
    "__version__",
    "attribute",
    "calibrate",
    "choice_tasks",
    "compare",
    "direct_logits",
    "direct_parts",
    "edit_losses",
    "english_windows",
    "find_sinks",
    "gating_probe",
    "groups",
    "head_stats",
    "load",
    "logit_lens",
    "patch_sweep",
    "patch_until_sure",
    "position_temperature",
    "tasks",
    "temperature_slopes",
    "text_windows",
    "verify",
    "view",
]

_MODULES = {
    "choice_tasks": "headlens.analyses.choice_tasks",
    "groups": "headlens.hooks.groups",
    "tasks": "headlens.analyses.tasks",
}
_HOMES = {
    "Ablate": "headlens.hooks.edits",
    "Call": "headlens.hooks.edits",
    "ChoiceTask": "headlens.analyses.choice_task",
    "ForceRow": "headlens.hooks.row_edits",
    "Gate": "headlens.hooks.edits",
    "HeadMap": "headlens.analyses.headmap",
    "KnockOut": "headlens.hooks.row_edits",
    "Metric": "headlens.analyses.metrics",
    "Model": "headlens.hooks.model",
    "NormGate": "headlens.hooks.norm_gate",
    "Patch": "headlens.hooks.edits",
    "Recalibrate": "headlens.hooks.recalibrate",
    "Report": "headlens.hooks.report",
    "SinkRule": "headlens.hooks.sink_rule",
    "Task": "headlens.analyses.tasks",
    "Temperature": "headlens.hooks.row_edits",
    "attribute": "headlens.analyses.attribution",
    "calibrate": "headlens.analyses.calibration",
    "compare": "headlens.analyses.comparison",
    "direct_logits": "headlens.analyses.direct_logits",
    "direct_parts": "headlens.analyses.direct_parts",
    "edit_losses": "headlens.analyses.edit_losses",
    "english_windows": "headlens.analyses.english",
    "find_sinks": "headlens.analyses.sinks",
    "gating_probe": "headlens.analyses.head_gating",
    "head_stats": "headlens.analyses.attention_statistics",
    "load": "headlens.models",
    "logit_lens": "headlens.analyses.logit_lens",
    "patch_sweep": "headlens.analyses.patching",
    "patch_until_sure": "headlens.analyses.until_sure",
    "position_temperature": "headlens.analyses.temperature",
    "temperature_slopes": "headlens.analyses.temperature",
    "text_windows": "headlens.analyses.english",
    "verify": "headlens.analyses.verification",
    "view": "headlens.figures",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'headlens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
