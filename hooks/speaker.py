"""The language model of a model that is another's questioner: BLIP's generate by themselves, inside the whole."""

from typing import Any

from torch import nn
from transformers import GenerationMixin


def inner_speaker(hf: nn.Module) -> tuple[str, Any] | None:
    """The name of a child that generates by itself, and the child; None where the whole does."""
    return next(((name, each) for name, each in hf.named_children() if isinstance(each, GenerationMixin)), None)
