"""A workbench for attention heads: record, patch and recalibrate every head of a transformer.

The public names below load from their homes on first use, so that `import headlens` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlens.analyses import choice_tasks as choice_tasks
    from headlens.analyses import tasks as tasks
    from headlens.analyses import weights as weights
    from headlens.analyses.attention_statistics import head_stats as head_stats
    from headlens.analyses.attribution import attribute as attribute
    from headlens.analyses.calibration import calibrate as calibrate
    from headlens.analyses.choice_task import ChoiceTask as ChoiceTask
    from headlens.analyses.circuits.circuit import Circuit as Circuit
    from headlens.analyses.circuits.curves import faithfulness_curve as faithfulness_curve
    from headlens.analyses.circuits.find import find_circuit as find_circuit
    from headlens.analyses.circuits.repair import repair as repair
    from headlens.analyses.circuits.reuse import reuse as reuse
    from headlens.analyses.comparison import compare as compare
    from headlens.analyses.direct_logits import direct_logits as direct_logits
    from headlens.analyses.direct_parts import direct_parts as direct_parts
    from headlens.analyses.edges.edge_attribution import attribute_edges as attribute_edges
    from headlens.analyses.edges.edge_effects import edge_effects as edge_effects
    from headlens.analyses.edges.edge_map import EdgeMap as EdgeMap
    from headlens.analyses.edit_losses import edit_losses as edit_losses
    from headlens.analyses.english import english_windows as english_windows
    from headlens.analyses.english import text_windows as text_windows
    from headlens.analyses.head_gating import gating_probe as gating_probe
    from headlens.analyses.headmap import HeadMap as HeadMap
    from headlens.analyses.logit_lens import logit_lens as logit_lens
    from headlens.analyses.metrics import Metric as Metric
    from headlens.analyses.multiple_choice.letter_mutations import letter_mutations as letter_mutations
    from headlens.analyses.multiple_choice.letter_roles import letter_roles as letter_roles
    from headlens.analyses.multiple_choice.low_rank_heads import low_rank as low_rank
    from headlens.analyses.multiple_choice.output_nodes import output_nodes as output_nodes
    from headlens.analyses.patching import patch_sweep as patch_sweep
    from headlens.analyses.paths.path_patching import path_patch as path_patch
    from headlens.analyses.roles.roles import roles as roles
    from headlens.analyses.sinks import find_sinks as find_sinks
    from headlens.analyses.tasks import Task as Task
    from headlens.analyses.temperature import position_temperature as position_temperature
    from headlens.analyses.temperature import temperature_slopes as temperature_slopes
    from headlens.analyses.until_sure import patch_until_sure as patch_until_sure
    from headlens.analyses.verification import verify as verify
    from headlens.analyses.vision.divergence.divergence import divergence as divergence
    from headlens.analyses.vision.divergence.divergence import position_divergence as position_divergence
    from headlens.analyses.vision.divergence.reinforcement import reinforce as reinforce
    from headlens.analyses.vision.divergence.token_divergence import token_divergence as token_divergence
    from headlens.analyses.vision.gaze import gaze as gaze
    from headlens.analyses.vision.image_prompts import image_prompt as image_prompt
    from headlens.analyses.vision.image_prompts import open_picture as open_picture
    from headlens.analyses.vision.measures.chair import chair as chair
    from headlens.analyses.vision.measures.estimates import paired_difference as paired_difference
    from headlens.analyses.vision.measures.pope import pope as pope
    from headlens.analyses.vision.measures.pope_said import pope_said as pope_said
    from headlens.analyses.vision.measures.yes_no import fitted_constant as fitted_constant
    from headlens.analyses.vision.redistribution.image_centric import image_centric_heads as image_centric_heads
    from headlens.analyses.vision.redistribution.redistribution import redistribute as redistribute
    from headlens.analyses.vision.redistribution.sink_dimensions import sink_dimensions as sink_dimensions
    from headlens.analyses.vision.redistribution.visual_sinks import visual_sinks as visual_sinks
    from headlens.analyses.vision.relatives import by_name as relatives
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
    from headlens.hooks.token_roles import token_roles as token_roles
    from headlens.models import load as load
    from headlens.views.image_view import view_image as view_image
    from headlens.views.view import view as view
    from headlens.views.view import view_compare as view_compare

__version__ = "0.1.0"

__all__ = [
    "Ablate",
    "Call",
    "ChoiceTask",
    "Circuit",
    "EdgeMap",
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
    "attribute_edges",
    "calibrate",
    "chair",
    "choice_tasks",
    "compare",
    "direct_logits",
    "direct_parts",
    "divergence",
    "edge_effects",
    "edit_losses",
    "english_windows",
    "faithfulness_curve",
    "find_circuit",
    "find_sinks",
    "fitted_constant",
    "gating_probe",
    "gaze",
    "groups",
    "head_stats",
    "image_centric_heads",
    "image_prompt",
    "letter_mutations",
    "letter_roles",
    "load",
    "logit_lens",
    "low_rank",
    "open_picture",
    "output_nodes",
    "paired_difference",
    "patch_sweep",
    "patch_until_sure",
    "path_patch",
    "pope",
    "pope_said",
    "position_divergence",
    "position_temperature",
    "redistribute",
    "reinforce",
    "relatives",
    "repair",
    "reuse",
    "roles",
    "sink_dimensions",
    "tasks",
    "temperature_slopes",
    "text_windows",
    "token_divergence",
    "token_roles",
    "verify",
    "view",
    "view_compare",
    "view_image",
    "visual_sinks",
    "weights",
]

_MODULES = {
    "choice_tasks": "headlens.analyses.choice_tasks",
    "groups": "headlens.hooks.groups",
    "relatives": "headlens.analyses.vision.relatives.by_name",
    "tasks": "headlens.analyses.tasks",
    "weights": "headlens.analyses.weights",
}
_HOMES = {
    "Ablate": "headlens.hooks.edits",
    "Call": "headlens.hooks.edits",
    "ChoiceTask": "headlens.analyses.choice_task",
    "Circuit": "headlens.analyses.circuits.circuit",
    "EdgeMap": "headlens.analyses.edges.edge_map",
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
    "attribute_edges": "headlens.analyses.edges.edge_attribution",
    "calibrate": "headlens.analyses.calibration",
    "chair": "headlens.analyses.vision.measures.chair",
    "compare": "headlens.analyses.comparison",
    "direct_logits": "headlens.analyses.direct_logits",
    "direct_parts": "headlens.analyses.direct_parts",
    "divergence": "headlens.analyses.vision.divergence.divergence",
    "edge_effects": "headlens.analyses.edges.edge_effects",
    "edit_losses": "headlens.analyses.edit_losses",
    "english_windows": "headlens.analyses.english",
    "faithfulness_curve": "headlens.analyses.circuits.curves",
    "find_circuit": "headlens.analyses.circuits.find",
    "find_sinks": "headlens.analyses.sinks",
    "fitted_constant": "headlens.analyses.vision.measures.yes_no",
    "gating_probe": "headlens.analyses.head_gating",
    "gaze": "headlens.analyses.vision.gaze",
    "head_stats": "headlens.analyses.attention_statistics",
    "image_centric_heads": "headlens.analyses.vision.redistribution.image_centric",
    "image_prompt": "headlens.analyses.vision.image_prompts",
    "letter_mutations": "headlens.analyses.multiple_choice.letter_mutations",
    "letter_roles": "headlens.analyses.multiple_choice.letter_roles",
    "load": "headlens.models",
    "logit_lens": "headlens.analyses.logit_lens",
    "low_rank": "headlens.analyses.multiple_choice.low_rank_heads",
    "open_picture": "headlens.analyses.vision.image_prompts",
    "output_nodes": "headlens.analyses.multiple_choice.output_nodes",
    "paired_difference": "headlens.analyses.vision.measures.estimates",
    "patch_sweep": "headlens.analyses.patching",
    "patch_until_sure": "headlens.analyses.until_sure",
    "path_patch": "headlens.analyses.paths.path_patching",
    "pope": "headlens.analyses.vision.measures.pope",
    "pope_said": "headlens.analyses.vision.measures.pope_said",
    "position_divergence": "headlens.analyses.vision.divergence.divergence",
    "position_temperature": "headlens.analyses.temperature",
    "redistribute": "headlens.analyses.vision.redistribution.redistribution",
    "reinforce": "headlens.analyses.vision.divergence.reinforcement",
    "repair": "headlens.analyses.circuits.repair",
    "reuse": "headlens.analyses.circuits.reuse",
    "roles": "headlens.analyses.roles.roles",
    "sink_dimensions": "headlens.analyses.vision.redistribution.sink_dimensions",
    "temperature_slopes": "headlens.analyses.temperature",
    "text_windows": "headlens.analyses.english",
    "token_divergence": "headlens.analyses.vision.divergence.token_divergence",
    "token_roles": "headlens.hooks.token_roles",
    "verify": "headlens.analyses.verification",
    "view": "headlens.views.view",
    "view_compare": "headlens.views.view",
    "view_image": "headlens.views.image_view",
    "visual_sinks": "headlens.analyses.vision.redistribution.visual_sinks",
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
