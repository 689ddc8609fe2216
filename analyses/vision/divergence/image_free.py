"""The same prompts without what their pictures say: image tokens deleted, or in place with a blank picture or the mean.

Deleting tokens also moves the text: it stands elsewhere (unless its positions are kept) and rows have fewer keys. A
blank picture or the mean embedding leaves all positions and keys, and shows a picture that no model was trained on.
None of the three is the truth; where they disagree, the disagreement is the finding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.analyses.vision.divergence.blind_reader import blind_reader
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Call
from headlens.hooks.groups import Image, TokenIds
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.sites import Site
from headlens.hooks.token_kinds import Resolving

WAYS = ("deleted", "blank", "mean")
POSITIONS = ("shifted", "kept")
# Models that take a picture of zeros for one that is not there get a hair more.
_BLANKS: Mapping[str, float] = {"idefics2": 1e-6, "idefics3": 1e-6, "smolvlm": 1e-6}
# What processors call the inputs of a picture, in the models that transformers has.
_OF_PICTURES = ("pixel_", "image_", "aspect_ratio_", "cross_attention_mask", "qformer_")


@dataclass(frozen=True, eq=False)
class ImageFree:
    """Samples without their pictures; `mean` is what stands at image tokens, where something does."""

    samples: Samples
    reader: Model  # runs them: the model, or its language model alone
    way: str
    position: str
    image_token: int | None
    mean: Float[Tensor, " d_model"] | None = None

    @contextmanager
    def running(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Runs of these inputs inside the block see the mean at their image tokens, where there is a mean."""
        mean, at = self.mean, image_tokens(inputs["input_ids"], self.image_token)
        if mean is None or not bool(at.any()):
            yield
            return
        entry, stays = str(Site("resid_pre", 0)), ~at[..., None]
        with self.reader.edited(Call(entry, lambda resid, hook: torch.where(stays.to(resid.device), resid, mean))):
            yield


def image_free(model: Model, samples: Samples, way: str, position: str | None, batch: int) -> ImageFree:
    """The samples without their pictures.

    - "deleted": without image tokens and without the inputs of pictures (2412.13949); a model that demands a picture
      (InstructBLIP) is then read by its language model alone. With position "shifted", as in
      the paper, the text behind a picture moves up; "kept" leaves it at the positions that it had, though sliding
      windows count the tokens that are left. Tokens that only frame a picture (Qwen-VL's vision_start) are text and
      stay.
    - "blank": every pixel is 0, which behind a processor's normalisation is a uniform picture of the mean colour.
    - "mean": what enters layer 0 at image tokens is their mean over all these samples.

    A sample without image tokens and without the inputs of pictures stays as it is.

    ValueError for an unknown way or position, "shifted" where nothing is deleted, padding, a sample that ends in an
    image token, "kept" in models whose positions have several axes (M-RoPE), and "mean" in models that add pictures
    again behind layer 0 (Qwen3-VL).
    """
    position = _checked(way, position)
    token = image_token(model)
    for at, inputs in enumerate(samples.inputs):
        _check_sample(at, inputs, token)
    if way == "mean":
        _refuse_deep_stack(model)
        return ImageFree(samples, model, way, position, token, _mean_embedding(model, samples, token, batch))
    change = _deleted
    if way == "blank":
        change = partial(_blank, _BLANKS.get(model.hf.config.model_type, 0.0))
    if way == "deleted" and position == "kept":
        _refuse_several_axes(model)
        change = _deleted_in_place
    free = replace(samples, inputs=tuple(change(one, token) for one in samples.inputs))
    return ImageFree(free, model if way == "blank" else blind_reader(model), way, position, token)


def image_token(model: Model) -> int | None:
    """The id of the token that stands for an image patch, None for a model that names none."""
    try:
        group = Resolving(None, model.hf.config)(Image())
    except ValueError:
        return None
    return group.ids[0] if isinstance(group, TokenIds) else None


def image_tokens(ids: Int[Tensor, "batch pos"], token: int | None) -> Bool[Tensor, "batch pos"]:
    """Which tokens are image patches."""
    return torch.zeros_like(ids, dtype=torch.bool) if token is None else ids == token


def of_tokens(inputs: Mapping[str, Tensor]) -> list[str]:
    """The inputs that have one entry for each token, such as a mask or the types of tokens."""
    return [name for name, value in inputs.items() if value.shape == inputs["input_ids"].shape]


def _checked(way: str, position: str | None) -> str:
    if way not in WAYS:
        raise ValueError(f"without={way!r} was given; expected one of {', '.join(WAYS)}.")
    position = position or ("shifted" if way == "deleted" else "kept")
    if position not in POSITIONS or (way != "deleted" and position == "shifted"):
        raise ValueError(
            f"position={position!r} was given for without={way!r}; deleted tokens leave the text 'shifted' or 'kept', "
            "and with a blank picture or the mean it is always 'kept'."
        )
    return position


def _check_sample(at: int, inputs: Mapping[str, Tensor], token: int | None) -> None:
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError(f"Sample {at} has padding or hidden tokens; give it as the model takes it alone, without any.")
    if bool(image_tokens(inputs["input_ids"], token)[0, -1]):
        raise ValueError(f"Sample {at} ends in an image token, so there is no text to read behind its picture.")


def _deleted(inputs: Mapping[str, Tensor], token: int | None) -> dict[str, Tensor]:
    kept = ~image_tokens(inputs["input_ids"], token)[0]
    # positions are counted anew by the model
    dropped = _OF_PICTURES if bool(kept.all()) else (*_OF_PICTURES, "position_ids")
    return {
        name: value[:, kept] if name in of_tokens(inputs) else value
        for name, value in inputs.items()
        if not name.startswith(dropped)
    }


def _deleted_in_place(inputs: Mapping[str, Tensor], token: int | None) -> dict[str, Tensor]:
    kept = ~image_tokens(inputs["input_ids"], token)
    counted = torch.arange(kept.shape[1], device=kept.device)[None]
    left = {**_deleted(inputs, token), "position_ids": inputs.get("position_ids", counted)[:, kept[0]]}
    # without a mask transformers takes a jump in the positions for the start of another text, and hides what is before
    return {**left, "attention_mask": torch.ones_like(left["input_ids"])}


def _blank(level: float, inputs: Mapping[str, Tensor], token: int | None) -> dict[str, Tensor]:
    return {
        name: torch.full_like(value, level) if name.startswith("pixel_values") else value
        for name, value in inputs.items()
    }


def _mean_embedding(model: Model, samples: Samples, token: int | None, batch: int) -> Tensor | None:
    """The mean of what enters layer 0 at image tokens; None where there are none."""
    entry, total, count = str(Site("resid_pre", 0)), 0.0, 0
    spared: dict[str, Any] = known_words(model.hf, logits_to_keep=1, use_cache=False)
    for _, inputs in samples.batches(batch):
        at = image_tokens(inputs["input_ids"], token)
        if not bool(at.any()):
            continue
        with torch.no_grad():
            _, kept = model.record(inputs, names_filter=[entry], **spared)
        total = total + kept[entry][at.to(kept[entry].device)].double().sum(0)
        count += int(at.sum())
    return (total / count).to(model.dtype) if isinstance(total, Tensor) else None


def _refuse_several_axes(model: Model) -> None:
    text = model.hf.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if "mrope_section" in rope:
        raise ValueError(
            f"{model.name!r} gives tokens positions of several axes, which text behind a deleted picture cannot keep "
            "here; take position='shifted', or without='blank' or 'mean', which move nothing."
        )


def _refuse_deep_stack(model: Model) -> None:
    if getattr(getattr(model.hf.config, "vision_config", None), "deepstack_visual_indexes", None):
        raise ValueError(
            f"{model.name!r} adds its picture again behind layer 0, where the mean would not replace it; take "
            "without='blank' or 'deleted'."
        )
