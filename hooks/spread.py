"""Models whose layers stand on several devices, or wait on the CPU or on disk, as accelerate's device maps have it.

accelerate moves a module's inputs, and fetches weights that it keeps elsewhere, inside the module's forward. Whoever
looks at inputs or weights from outside sees the other device's, or none, unless they come through here.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    for inner in module.modules():
        for hook in _hooks(inner):
            if hook.execution_device is not None:
                return torch.device(hook.execution_device)
    return next(module.parameters()).device


def input_device(hf: PreTrainedModel) -> torch.device:
    """Where a model's inputs go: to its embedding."""
    return device_of(hf.get_input_embeddings()) if is_placed(hf) else hf.device


def is_placed(hf: nn.Module) -> bool:
    """Whether accelerate moves this model's inputs or weights while it runs."""
    return any(_hooks(module) for module in hf.modules())


def meet_inputs(hf: nn.Module) -> None:
    """Let everyone who watches a module see its inputs on the module's own device.

    Every module that accelerate places gets a hook that moves its inputs a moment before accelerate would. It stays.
    """
    for module in hf.modules():
        if _hooks(module) and _moved not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_moved, prepend=True, with_kwargs=True)


def values_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A parameter's numbers, fetched where accelerate keeps them elsewhere between runs. Names may have dots.

    ValueError for one that has none: an empty model, or one that was offloaded by other means.
    """
    parameter = module.get_parameter(name)
    if parameter.device.type != "meta":
        return parameter
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    for hook in _hooks(owner):
        if getattr(hook, "weights_map", None) is not None:
            return hook.weights_map[leaf].to(hook.execution_device)
    raise ValueError(
        f"The {leaf} of a {type(owner).__name__} is on the meta device, and nothing says where its numbers are; load "
        "the model with its weights, which a device_map may leave on the CPU or on disk."
    )


def bias_of(module: nn.Module) -> Tensor | None:
    """The numbers of a module's bias, or None where it has none."""
    return None if getattr(module, "bias", None) is None else values_of(module, "bias")


def float32_copy(module: nn.Module) -> nn.Module:
    """A copy of a module in float32, with all its numbers, in which accelerate has no part."""
    memo: dict[int, Any] = {
        id(own): nn.Parameter(values_of(module, name).detach().to(torch.float32, copy=True), requires_grad=False)
        for name, own in module.named_parameters()
    }
    # accelerate's hooks hold all of the model's weights
    memo |= {id(hook): hook for inner in module.modules() if (hook := inner.__dict__.get("_hf_hook")) is not None}
    copied = copy.deepcopy(module, memo).float()
    for inner in copied.modules():
        if inner.__dict__.pop("_hf_hook", None) is not None:
            # back to the forward of its class
            del inner.__dict__["forward"], inner.__dict__["_old_forward"]
        for key in [key for key, hook in inner._forward_pre_hooks.items() if hook is _moved]:
            del inner._forward_pre_hooks[key]
    return copied


def parameter_names(module: nn.Module) -> list[str]:
    """The parameters in the model's order, those that are tied to another only once."""
    # on the meta device tied ones are apart
    tied = getattr(module, "all_tied_weights_keys", {})
    return [name for name, own in module.named_parameters() if own.device.type != "meta" or name not in tied]


def _hooks(module: nn.Module) -> list[Any]:
    """accelerate's hooks on this module that align devices; told by what they have, to do without an import."""
    hook = module.__dict__.get("_hf_hook")
    if hook is None:
        return []
    return [each for each in getattr(hook, "hooks", [hook]) if hasattr(each, "execution_device")]


def _moved(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    device = device_of(module)
    return _on(device, args), _on(device, kwargs)


def _on(device: torch.device, value: Any) -> Any:
    """The same value with its tensors on this device; caches and other objects are left to accelerate."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(_on(device, each) for each in value)
    return {key: _on(device, each) for key, each in value.items()} if type(value) is dict else value
