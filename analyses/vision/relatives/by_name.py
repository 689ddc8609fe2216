"""The relatives that come with headlens, by name: `hl.relatives.pai(model, 0.5)` is an edit, others are readings.

Edits, for `model.edited(...)` or the `under=` of a measure: pai, pai_centred, imbalanced, inhibit_cross_modal and
no_attention_among_patches. Around a run: guidance (a logits processor) and mutual_attention (inputs with a mask).
Readings: contrast_maps with contrast_crop, image_attention_share, modality_shares, token_sets, visual_flow, and probes
of patch_features.
"""

from headlens.analyses.vision.relatives.attention_masks import mutual_attention as mutual_attention
from headlens.analyses.vision.relatives.attention_masks import no_attention_among_patches as no_attention_among_patches
from headlens.analyses.vision.relatives.contrast_crop import contrast_crop as contrast_crop
from headlens.analyses.vision.relatives.contrast_maps import contrast_maps as contrast_maps
from headlens.analyses.vision.relatives.cross_modal_inhibition import inhibit_cross_modal as inhibit_cross_modal
from headlens.analyses.vision.relatives.guidance import guidance as guidance
from headlens.analyses.vision.relatives.image_attention_share import image_attention_share as image_attention_share
from headlens.analyses.vision.relatives.imbalanced import imbalanced as imbalanced
from headlens.analyses.vision.relatives.modality_shares import modality_shares as modality_shares
from headlens.analyses.vision.relatives.pai import pai as pai
from headlens.analyses.vision.relatives.pai import pai_centred as pai_centred
from headlens.analyses.vision.relatives.patch_features import patch_features as patch_features
from headlens.analyses.vision.relatives.patch_sets import token_sets as token_sets
from headlens.analyses.vision.relatives.probe_training import train_mean_probe as train_mean_probe
from headlens.analyses.vision.relatives.probe_training import train_probe as train_probe
from headlens.analyses.vision.relatives.visual_flow import visual_flow as visual_flow
