"""What reads a text without any picture: the model itself, or its language model where it demands a picture."""

import inspect
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from headlens.hooks.model import Model, wrap

_readers: "WeakKeyDictionary[PreTrainedModel, Model]" = WeakKeyDictionary()


def demands_pictures(model: Model) -> bool:
    """Whether the model runs on nothing but pictures with text, as InstructBLIP does."""
    parameters = inspect.signature(model.hf.forward).parameters
    pixels = parameters.get("pixel_values")
    return "input_ids" in parameters and pixels is not None and pixels.default is inspect.Parameter.empty


def blind_reader(model: Model) -> Model:
    """The model, or one over the same weights that is its language model alone, with the same layers and heads.

    ValueError for a model that demands pictures and whose main tower is not a language model that runs by itself.
    """
    if not demands_pictures(model):
        return model
    inner = getattr(model.hf, "language_model", None)
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(f"{model.name} does not run without a picture; take without='blank' or 'mean'.")
    if model.hf not in _readers:
        _readers[model.hf] = wrap(inner, model.tokenizer, model.name)
    return _readers[model.hf]
