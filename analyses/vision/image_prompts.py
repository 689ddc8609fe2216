"""Pictures and words made into a vision-language model's own inputs, by its own processor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.hooks.model import Model


def open_picture(path: str | Path) -> UInt8[np.ndarray, "row column 3"]:
    """The pixels of an image file (PNG, JPEG, ...), red, green and blue from 0 to 255.

    Transparent parts are laid on white, and a photograph is turned upright as its file says. ValueError for a file that
    is no picture, OSError for one that cannot be read.
    """
    try:
        with Image.open(path) as opened:
            return np.asarray(_on_white(ImageOps.exif_transpose(opened)), dtype=np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture; give a PNG or JPEG file.") from error


def image_prompt(model: Model, pictures: Sequence[UInt8[np.ndarray, "row column 3"]], text: str) -> dict[str, Tensor]:
    """What the model takes for a prompt of these pictures and this text: a batch of 1.

    Where the processor has a chat template, pictures and text become the user's turn, and the model answers next.
    Elsewhere the pictures stand in front of the text, or where the text has the processor's own marks for them.

    ValueError for a model without an image processor, or pictures and marks that differ in number.
    """
    processor = model.tokenizer
    if getattr(processor, "image_processor", None) is None:
        raise ValueError(
            f"{model.name} was loaded without an image processor; load a folder that has one "
            "(processor_config.json or preprocessor_config.json), or give tokenizer=AutoProcessor.from_pretrained(...)."
        )
    images = [Image.fromarray(picture) for picture in pictures]
    if getattr(processor, "chat_template", None):
        turn: Any = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        made = processor.apply_chat_template(
            [{"role": "user", "content": turn}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        given = {"images": images} if images else {}
        made = processor(text=_marked(processor, len(images), text), **given, return_tensors="pt")
    return {name: value for name, value in made.items() if isinstance(value, Tensor)}


def refuse_blind(model: Model) -> None:
    """ValueError for a model that has no image tokens."""
    try:
        image_tokens(model)
    except ValueError:
        kind = type(model.hf.config).__name__
        raise ValueError(
            f"{model.name} takes no pictures among its tokens ({kind} names no image token); give a vision-language "
            "model, such as tiny-vlm, which comes with headlens."
        ) from None


def _marked(processor: Any, pictures: int, text: str) -> str:
    """The text with one mark for each picture; as it is for processors that put their image tokens in themselves."""
    mark = getattr(processor, "image_token", None)
    if mark is None or not pictures or "InstructBlip" in type(processor).__name__:
        return text
    mark = str(mark)
    if mark not in text:
        return f"{mark * pictures} {text}"
    if text.count(mark) != pictures:
        raise ValueError(
            f"The text has {text.count(mark)} marks {mark!r} for {pictures} pictures; give one for each, or none to "
            "put the pictures in front."
        )
    return text


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
