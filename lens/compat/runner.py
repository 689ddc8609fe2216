"""What is handed over to be patched: a TransformerLens TransformerBridge or a headlens Model, and how each is run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.components_utils import get_act_name

from headlens.hooks.bridge import from_bridge, to_bridge
from headlens.hooks.model import Model

# Activations by full hook name.
Cache = Mapping[str, Tensor] | ActivationCache
# A function from an activation to what takes its place.
Change = Callable[[Tensor], Tensor]
# Where queries and keys are kept before their rotation, a headlens Model has them behind it.
_ROTATED = re.compile(r"hook_([qk])$")
_twins: "WeakKeyDictionary[Any, tuple[tuple, Model]]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Runner:
    """`given` runs under TransformerLens-style hooks; `model` is the same for the engine, or the reason why not."""

    given: Any
    model: Model | str

    @property
    def device(self) -> torch.device:
        return torch.device(self.given.cfg.device)

    @property
    def n_layers(self) -> int:
        return self.given.cfg.n_layers

    @property
    def n_heads(self) -> int:
        return self.given.cfg.n_heads

    @property
    def n_kv_heads(self) -> int:
        if isinstance(self.given, Model):
            return self.given.n_kv_heads
        return self.given.cfg.n_key_value_heads or self.n_heads

    def hook_name(self, activation_name: str, layer: int | str) -> str:
        """The full hook name of an activation that is named as TransformerLens names it."""
        name = get_act_name(activation_name, layer)
        return _ROTATED.sub(r"hook_rot_\1", name) if isinstance(self.given, Model) else name

    def run(self, tokens: Int[Tensor, "batch pos"], changes: Mapping[str, Change]) -> Float[Tensor, "batch pos token"]:
        """Logits of a whole forward in which each named activation is what its change makes of it."""

        def hooked(change: Change) -> Callable[..., Tensor]:
            return lambda activation, hook: change(activation)

        with torch.no_grad():
            return self.given.run_with_hooks(tokens, fwd_hooks=[(name, hooked(act)) for name, act in changes.items()])

    def record(
        self, tokens: Int[Tensor, "batch pos"], names: list[str], changes: Mapping[str, Change] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a whole forward, plain or with changes of other activations, and the named ones."""
        kept: dict[str, Tensor] = {}

        def keeping(name: str) -> Change:
            def keep(activation: Tensor) -> Tensor:
                kept[name] = activation.clone()
                return activation

            return keep

        return self.run(tokens, {**(changes or {}), **{name: keeping(name) for name in names}}), kept


def runner_of(model: Any) -> Runner:
    """ValueError for a model of another kind, or in training mode."""
    if isinstance(model, Model):
        return Runner(model, model)
    if not isinstance(model, TransformerBridge):
        raise ValueError(
            f"Expected a TransformerLens TransformerBridge or a headlens Model, not a {type(model).__name__}; load the "
            "model with TransformerBridge.boot_transformers(...)."
        )
    _refuse_training(model)
    return Runner(model, _twin(model))


def bridged(runner: Runner) -> Runner:
    """The same model as TransformerLens runs it."""
    return Runner(to_bridge(runner.given), runner.model) if isinstance(runner.given, Model) else runner


def _refuse_training(bridge: Any) -> None:
    modules = chain(bridge.named_modules(), bridge.original_model.named_modules())
    name = next((name or "the model itself" for name, module in modules if module.training), None)
    if name is not None:
        raise ValueError(
            f"Patching needs a model in evaluation mode, and {name} is in training mode; call model.eval()."
        )


def _twin(bridge: Any) -> Model | str:
    """A Model over the bridge's parameters, made once for as long as these stay where they are."""
    wrapped = bridge.original_model
    places = (
        getattr(bridge, "compatibility_mode", False),
        *(tensor.data_ptr() for tensor in chain(wrapped.parameters(), wrapped.buffers())),
    )
    if bridge not in _twins or _twins[bridge][0] != places:
        try:
            _twins[bridge] = places, from_bridge(bridge)
        except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as problem:
            return str(problem)
    return _twins[bridge][1]
