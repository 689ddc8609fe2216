"""What a model says to samples, greedily: many prompts at a time, with whether it came to an end."""

from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from headlens.analyses.tokens import text_tokenizer, tokenizer_of
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.under import Under, edits_for
from headlens.hooks.model import Model


@dataclass(frozen=True)
class Reply:
    """The tokens said, and the one that ended them: None where room ran out."""

    tokens: tuple[int, ...]
    end: int | None

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def whole(self) -> tuple[int, ...]:
        """The tokens with the one that ended them."""
        return self.tokens if self.end is None else (*self.tokens, self.end)


def replies(
    model: Model,
    samples: Samples,
    max_new_tokens: int,
    *,
    under: Under = (),
    batch: int = 8,
    progress: bool = False,
) -> tuple[Reply, ...]:
    """The likeliest token at each step, under edits, for each sample.

    ValueError for no samples, and for a batch or a number of tokens below 1.
    """
    if not len(samples) or batch < 1 or max_new_tokens < 1:
        raise ValueError(
            f"{len(samples)} samples, batch={batch} and max_new_tokens={max_new_tokens} were given; expected at least "
            "one of each."
        )
    ends = _ends(model)
    said: dict[int, Reply] = {}
    with tqdm(total=len(samples), unit=" samples", desc="replies", disable=not progress) as bar:
        for indices, inputs in samples.batches(batch):
            with model.edited(*edits_for(under, indices)):
                rows = model.generate(
                    inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **_padding(model)
                ).tolist()
            for at, row, prompt in zip(indices, rows, inputs["input_ids"].tolist(), strict=True):
                # some models give back the prompt too, some only what follows
                new = row[len(prompt) :] if row[: len(prompt)] == prompt else row
                stop = next((place for place, token in enumerate(new) if token in ends), None)
                said[at] = Reply(tuple(new[:stop]), None if stop is None else new[stop])
            bar.update(len(indices))
    return tuple(said[at] for at in range(len(samples)))


def text_of(model: Model, reply: Reply) -> str:
    """The reply in words, without special tokens. ValueError for a model without a tokenizer."""
    return str(tokenizer_of(model).decode([*reply.tokens], skip_special_tokens=True))


def _padding(model: Model) -> dict[str, int]:
    token = getattr(text_tokenizer(model), "pad_token_id", None)
    return {} if token is None else {"pad_token_id": token}


def _ends(model: Model) -> set[int]:
    """The tokens that end a text; several in some models, none in others."""
    given: Any = getattr(model.hf.generation_config, "eos_token_id", None)
    if given is None:
        given = getattr(text_tokenizer(model), "eos_token_id", None)
    return {int(one) for one in (given if isinstance(given, list | tuple) else [given]) if one is not None}
