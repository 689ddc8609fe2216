"""One pair of prompts of a task as a model reads it: patterns, what is known of every head, and answers under edits.

Each run is made when it is first asked for and kept, so that a head of a prompt that was read before costs nothing; one
that is interrupted keeps nothing.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.direct_logits import direct_logits
from headlens.analyses.headmap import HeadMap
from headlens.analyses.position_tokens import readable
from headlens.analyses.task import Task
from headlens.hooks.apply import Edit
from headlens.hooks.edits import Patch
from headlens.hooks.model import Model
from headlens.hooks.sites import Site

STATISTICS = ("entropy", "first_token", "previous_token", "self", "duplicate", "induction", "distance")
# Bytes of float16 up to which the patterns of all layers are kept of one run.
_AT_ONCE = 256 * 2**20


class PromptReading:
    """The prompt of this index in a task, and its corrupted twin."""

    def __init__(self, model: Model, task: Task, prompt: int) -> None:
        """ValueError for a prompt that the task does not have."""
        self.model, self.task, self.prompt = model, task.subset([prompt]), prompt
        self._patterns: dict[int, np.ndarray] = {}
        self._patched: dict[tuple[int, int], float] = {}

    @cached_property
    def tokens(self) -> list[str]:
        """What stands at each position of the clean prompt; token ids where the model has no tokenizer."""
        ids = self.task.clean_tokens[0].tolist()
        tokenizer = self.model.tokenizer
        return [str(token) if tokenizer is None else readable(tokenizer, token) for token in ids]

    @property
    def text(self) -> str:
        """The clean prompt."""
        return self.task.texts[0][0] or " ".join(self.tokens)

    @property
    def answers(self) -> tuple[str, str]:
        """The answer and the foil."""
        own, ids = self.task.answer_texts[0], (int(self.task.answers[0]), int(self.task.foils[0]))
        tokenizer = self.model.tokenizer
        named = (str(one) if tokenizer is None else readable(tokenizer, one) for one in ids)
        answer, foil = (text or name for text, name in zip(own, named, strict=True))
        return answer, foil

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """Attention of a head in the clean run, float16 [query, key]."""
        if layer not in self._patterns:
            length = len(self.tokens)
            fits = 2 * self.model.n_layers * self.model.n_heads * length**2 <= _AT_ONCE
            layers = range(self.model.n_layers) if fits else [layer]
            sites = {layer: str(Site("pattern", layer)) for layer in layers}
            names = list(sites.values())
            _, kept = self.model.record(self._clean, names_filter=names, device="cpu", dtype=torch.float16)
            self._patterns |= {layer: kept[site][0].numpy() for layer, site in sites.items()}
        return self._patterns[layer][head]

    @cached_property
    def facts(self) -> dict[str, HeadMap]:
        """What the clean run says of every head, maps over (layer, head): `head_stats` and "direct", the part of answer
        logit minus foil logit that the head writes; without it for models that `direct_logits` refuses."""
        found = head_stats(self.model, self._clean, STATISTICS, progress=False)
        with suppress(ValueError):
            found["direct"] = direct_logits(self.model, self.task)
        return found

    @cached_property
    def clean(self) -> float:
        """Answer logit minus foil logit at END of the clean prompt."""
        return self._answer(self._clean)

    @cached_property
    def corrupted(self) -> float:
        """The same of the corrupted prompt."""
        return self._answer(self._corrupted)

    def under(self, edits: Iterable[Edit]) -> float:
        """The same of the clean prompt under these edits."""
        with self.model.edited(*edits):
            return self._answer(self._clean)

    def patched(self, layer: int, head: int) -> float:
        """The same of the corrupted prompt with this head's z from the clean one at every position."""
        if (layer, head) not in self._patched:
            _, source = self.model.record(self._clean, names_filter=[str(Site("z", layer))])
            with self.model.edited(Patch((layer, head), source)):
                self._patched[layer, head] = self._answer(self._corrupted)
        return self._patched[layer, head]

    @property
    def _clean(self) -> torch.Tensor:
        return self.task.clean_tokens.to(self.model.device)

    @property
    def _corrupted(self) -> torch.Tensor:
        return self.task.corrupted_tokens.to(self.model.device)

    @torch.no_grad()
    def _answer(self, tokens: torch.Tensor) -> float:
        logits = self.model(tokens)[0, int(self.task.positions["END"][0])].float()
        return float(logits[int(self.task.answers[0])] - logits[int(self.task.foils[0])])
