"""Pictures as a model saw them: cut and scaled by its processor, so that patches lie where they are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from headlens.hooks.model import Model


def seen_pictures(
    model: Model, inputs: Mapping[str, Tensor], pictures: Sequence[UInt8[np.ndarray, "_row _column 3"]]
) -> list[UInt8[np.ndarray, "_row _column 3"]]:
    """The pictures of a prompt as the model's patches lie on them.

    Where the processor gives one array of pixels for each picture, that is made a picture again: LLaVA-1.5's cuts the
    sides of a wide one off. Where it gives patches instead (Qwen-VL's, which only scales), they are as they were.
    """
    pixels, processor = inputs.get("pixel_values"), getattr(model.tokenizer, "image_processor", None)
    if pixels is None or pixels.ndim != 4 or len(pixels) != len(pictures) or processor is None:
        return [*pictures]
    mean, deviation = (
        _channels(processor, name, default) for name, default in (("image_mean", 0.0), ("image_std", 1.0))
    )
    scale = getattr(processor, "rescale_factor", None) or 1 / 255
    shown = (pixels.detach().cpu().double().permute(0, 2, 3, 1).numpy() * deviation + mean) / scale
    return [np.clip(np.rint(one), 0, 255).astype(np.uint8) for one in shown]


def _channels(processor: Any, name: str, default: float) -> np.ndarray:
    given = getattr(processor, name, None) if getattr(processor, "do_normalize", True) else None
    return np.full(3, float(default)) if given is None else np.array(given, np.float64)
