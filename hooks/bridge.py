"""To TransformerLens's TransformerBridge and back, sharing the parameters' storage, copying nothing.

A bridge replaces the modules of the Hugging Face model that it is given, so each side gets a module tree of its own
over the same parameters: editing a weight through either is seen by both.
"""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from headlens.hooks.model import Model, wrap
from headlens.hooks.spread import is_placed

_INSIDE = "_original_component."


def to_bridge(model: Model) -> Any:
    """A TransformerBridge over this model's parameters.

    Built from the module in hand: nothing is looked up on a hub and nothing is installed. Raises ValueError where
    TransformerLens has no adapter for the architecture, or needs a library that is not here, and for a model whose
    device_map spreads it over devices or keeps weights elsewhere.
    """
    if is_placed(model.hf):
        raise ValueError(
            f"{model.name!r} is placed by a device_map, and what moves its inputs and weights does not go over to a "
            "bridge; load it onto one device, without device_map."
        )
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.sources._bridge_builder import detect_tokenizer_bos_eos

    shared = {id(tensor): tensor for tensor in (*model.hf.parameters(), *model.hf.buffers())}
    twin = copy.deepcopy(model.hf, shared)
    twin.set_attn_implementation("eager")
    architecture = type(model.hf).__name__
    try:
        bridge = build_bridge_from_module(twin, architecture, hf_config=twin.config, model_name=model.name)
    except (ValueError, ImportError) as error:
        raise ValueError(f"TransformerLens cannot bridge {architecture}: {error}") from error
    if model.tokenizer is not None:
        # set directly: TransformerLens's own set-up may ask a hub for a copy that prepends BOS
        bridge.tokenizer = model.tokenizer
        prepends, appends = detect_tokenizer_bos_eos(model.tokenizer)
        bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = prepends, appends
    return bridge


def from_bridge(bridge: Any, name: str | None = None) -> Model:
    """A headlens Model over a TransformerBridge's parameters.

    Raises ValueError for a bridge whose weights were folded (`enable_compatibility_mode()`): they no longer fit the
    Hugging Face architecture; and for one over a model that a device_map places.
    """
    wrapped = bridge.original_model
    if not isinstance(wrapped, PreTrainedModel):
        raise ValueError(f"This bridge wraps a {type(wrapped).__name__}; headlens needs one over a Hugging Face model.")
    if getattr(bridge, "compatibility_mode", False):
        raise ValueError(
            "This bridge is in compatibility mode, which folded its weights; "
            "load it without enable_compatibility_mode()."
        )
    if is_placed(wrapped):
        raise ValueError(
            f"This bridge is over a {type(wrapped).__name__} that a device_map places; load the model onto one device, "
            "or give it to headlens itself."
        )
    tensors = {
        key.replace(_INSIDE, ""): value
        for key, value in (*wrapped.named_parameters(remove_duplicate=False), *wrapped.named_buffers())
    }
    config = copy.deepcopy(wrapped.config)
    config._attn_implementation = "sdpa" if type(wrapped)._supports_sdpa else "eager"
    with torch.device("meta"):
        twin = type(wrapped)(config)
    for key, slot in [*twin.named_parameters(remove_duplicate=False), *twin.named_buffers()]:
        if key not in tensors or tensors[key].shape != slot.shape:
            raise ValueError(f"The bridge has no tensor {key} of shape {tuple(slot.shape)}; load the model directly.")
        owner, _, leaf = key.rpartition(".")
        module = twin.get_submodule(owner)
        slots: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
        slots[leaf] = tensors[key]
    return wrap(twin.eval(), bridge.tokenizer, name or bridge.cfg.model_name)
