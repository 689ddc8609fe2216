"""A Hugging Face model as headlens sees it: its towers of attention layers, its sizes, and the verbs that run it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlens.hooks.apply import Edit, acts_of
from headlens.hooks.clock import telling
from headlens.hooks.discover import Layer, Tower
from headlens.hooks.edits import Call
from headlens.hooks.fingerprint import weights_hash
from headlens.hooks.inputs import Tokens, prepare
from headlens.hooks.intercept import listening
from headlens.hooks.probe import find_all_towers
from headlens.hooks.record import NamesFilter, Recorder, Reduction, parse_bytes, sites_named
from headlens.hooks.report import Report
from headlens.hooks.sites import MAIN
from headlens.hooks.spread import input_device, meet_inputs
from headlens.hooks.tapped import tapped
from headlens.hooks.token_kinds import Resolving

if TYPE_CHECKING:
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Model:
    """A transformer and its tokenizer or processor, with every attention layer found.

    The sizes are those of the main tower: the language model (the decoder of an encoder-decoder), or the encoder of
    a model that only sees. Running, recording and editing leave the Hugging Face model as it was.
    """

    hf: PreTrainedModel
    tokenizer: Any
    name: str
    towers: Mapping[str, Tower]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.towers[MAIN].layers

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        return self.towers[MAIN].n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.towers[MAIN].n_kv_heads

    @property
    def d_head(self) -> int:
        return self.towers[MAIN].d_head

    @property
    def d_model(self) -> int:
        return self.towers[MAIN].d_model

    @property
    def device(self) -> torch.device:
        return input_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def weights_hash(self) -> str:
        """A digest of all parameters as they are now; see `headlens.hooks.fingerprint`."""
        return weights_hash(self.hf)

    @property
    def hook_names(self) -> list[str]:
        """Every hook name of this model, in the order in which they fire within a layer."""
        return [str(site) for site in sites_named(lambda _: True, self.towers)]

    def __call__(self, tokens: Tokens, **kwargs: Any) -> Tensor:
        """Logits [batch, pos, vocabulary] of a plain run (hidden states for a model without an unembedding)."""
        return self._forward(tokens, kwargs)

    def record(
        self,
        tokens: Tokens,
        *,
        names_filter: NamesFilter = None,
        reduce: Mapping[str, Reduction] | None = None,
        budget: str | int | None = "4GiB",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`run_with_cache` with a plain dictionary of full names instead of TransformerLens's cache."""
        recorder = Recorder(sites_named(names_filter, self.towers), reduce or {}, parse_bytes(budget), device, dtype)
        with tapped(self.hf, self.towers, recorder.taps()):
            logits = self._forward(tokens, kwargs)
        return logits, recorder.kept

    def run_with_cache(self, tokens: Tokens, **kwargs: Any) -> "tuple[Tensor, ActivationCache]":
        """Run once and keep activations: `(logits, ActivationCache)`, with TransformerLens's names and axes.

        `names_filter` takes short names for all layers (`["pattern", "z"]`), full names, or a predicate; without it
        everything but `result` is kept. `reduce` maps a short name to a function applied at capture
        (`mean_over("batch")`, `at_positions(end)`), `budget` bounds the kept bytes, `device` and `dtype` say where
        and how they are kept. Further arguments go to the model. Scores of hidden keys are -inf.
        """
        # imported here: TransformerLens takes seconds to import, and only its cache type is needed
        from transformer_lens import ActivationCache

        logits, kept = self.record(tokens, **kwargs)
        return logits, ActivationCache(kept, self)

    def run_with_hooks(
        self,
        tokens: Tokens,
        *,
        fwd_hooks: Sequence[tuple[str | Callable[[str], bool], Callable]] = (),
        **kwargs: Any,
    ) -> Tensor:
        """Logits of one run under TransformerLens-style hooks: pairs of a hook name (or predicate) and a function
        `function(tensor, hook)` that returns the new tensor, or None."""
        with self.edited(*(Call(name, function) for name, function in fwd_hooks)):
            return self._forward(tokens, kwargs)

    @contextmanager
    def edited(self, *edits: Edit, report: Report | None = None) -> Iterator["Model"]:
        """Every run inside the block, `generate` included, is under these edits, applied in the order given.

        Blocks nest: outer edits act first. Edits of attention rows act in the algebra's order, in whatever order they
        are given: temperatures, then what is renormalised, then transfers, then policy raw; where a transfer's place
        would matter, or there is no such order, they raise ValueError. What they do is counted in `report`. An edit
        whose layer, rows or positions never ran raises RuntimeError at the end.
        """
        acts = acts_of(edits, self.towers, Resolving(self.tokenizer, self.hf.config))
        with tapped(self.hf, self.towers, acts, report):
            yield self

    def generate(self, tokens: Tokens, **kwargs: Any) -> Tensor:
        """`hf.generate` with the inputs prepared as for a run; token ids [batch, pos] with the continuation."""
        inputs = prepare(self.hf, self.tokenizer, tokens, {})
        # generate counts positions itself, from the attention mask
        inputs.pop("position_ids", None)
        generate: Any = self.hf.generate
        with torch.no_grad(), listening(self.hf), telling(self.hf, inputs.get("input_ids")):
            # hooks do something else at each step, and compiled (static caches on a GPU are) each is traced anew
            return generate(**inputs, **{"disable_compile": True, **kwargs})

    def to_tokens(self, text: str | Sequence[str]) -> Tensor:
        """Token ids [batch, pos] of one or several texts, as the tokenizer does by default."""
        return prepare(self.hf, self.tokenizer, text, {})["input_ids"]

    def to_bridge(self) -> "TransformerBridge":
        """A TransformerLens TransformerBridge over the same parameters; see `headlens.hooks.bridge`."""
        # imported here, as TransformerLens is above; and bridge.py builds on this file
        from headlens.hooks.bridge import to_bridge

        return to_bridge(self)

    @classmethod
    def from_bridge(cls, bridge: "TransformerBridge", name: str | None = None) -> "Model":
        """A Model over the parameters of a TransformerBridge; see `headlens.hooks.bridge`."""
        from headlens.hooks.bridge import from_bridge

        return from_bridge(bridge, name)

    def _forward(self, tokens: Tokens, kwargs: Mapping[str, Any]) -> Tensor:
        # plain runs too: an edit is compared with them, and transformers' own default may compute something else (in
        # 5.17 its SDPA drops Gemma-2's soft cap)
        with listening(self.hf):
            output = self.hf(**prepare(self.hf, self.tokenizer, tokens, kwargs))
        return output.logits if "logits" in output else output.last_hidden_state

    @property
    def cfg(self) -> "Model":
        """TransformerLens's cache asks `model.cfg.n_layers` for negative layer indices."""
        return self


def wrap(hf: PreTrainedModel, tokenizer: Any = None, name: str | None = None) -> Model:
    """Find the attention layers of a loaded model and check that edits of them take effect.

    Raises ValueError, naming the class and the reason, for a model that headlens cannot hold: one whose attention
    does not go through transformers' AttentionInterface, or whose outputs are not finite.
    """
    meet_inputs(hf)
    return Model(hf, tokenizer, name or hf.name_or_path or type(hf).__name__, find_all_towers(hf))
