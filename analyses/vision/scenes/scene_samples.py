"""Questions about scenes and requests to describe them, as Samples for a model of pictures and these words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_pictures import SIZE, as_pixels, draw_picture
from headlens.analyses.vision.scenes.scene_questions import DESCRIBE, count, describe, questions, words
from headlens.analyses.vision.scenes.scenes import GRID, NOUNS, PRIOR, Scene, World, draw_scenes
from headlens.hooks.groups import Image
from headlens.hooks.model import Model
from headlens.hooks.token_kinds import Resolving

# Of the world that models are trained on, as many as make its frequencies plain; never those that are asked about.
COUNTED = 4000
COUNTING_SEED = 1_000_003


def scene_questions(
    model: Model, n: int = 200, seed: int = 0, *, negatives: str = "random", world: World = PRIOR
) -> Samples:
    """POPE's questions (arXiv 2305.10355) about n scenes: "is there a cup ?" with the answer "yes" or "no".

    Up to six per scene, half of them about what is not there (`negatives`: "random", "popular", "adversarial"; the
    frequencies are those of `PRIOR`, whatever `world` is asked about). The model answers with its next token. A
    sample's cluster is its scene; its facts are the scene's objects, the image patch of each (`cells`), `contrasts`,
    the partners that are `missing`, and what was asked: `noun`, `paired`, and `cell` (-1 where it is not there).
    """
    counts = count(draw_scenes(COUNTED, COUNTING_SEED, PRIOR))
    asked = [(scene, one) for scene in draw_scenes(n, seed, world) for one in questions(scene, negatives, counts)]
    return Samples(
        "scene_questions",
        _inputs(model, [(scene, one.text) for scene, one in asked]),
        answers=tuple(one.answer for _, one in asked),
        clusters=tuple(scene.name for scene, _ in asked),
        facts=tuple(
            {**facts(scene), "noun": one.noun, "paired": one.paired, "cell": scene.cells.get(one.noun, -1)}
            for scene, one in asked
        ),
        details={"n": n, "seed": seed, "negatives": negatives, "world": vars(world)},
    )


def scene_descriptions(model: Model, n: int = 200, seed: int = 0, *, world: World = PRIOR) -> Samples:
    """Requests to describe n scenes, one for each; the answer is the full description, which no wording must equal.

    Facts are those of `scene_questions` without what was asked.
    """
    scenes = draw_scenes(n, seed, world)
    return Samples(
        "scene_descriptions",
        _inputs(model, [(scene, DESCRIBE) for scene in scenes]),
        answers=tuple(describe(scene) for scene in scenes),
        clusters=tuple(scene.name for scene in scenes),
        facts=tuple(facts(scene) for scene in scenes),
        details={"n": n, "seed": seed, "world": vars(world), "classes": [*NOUNS]},
    )


def facts(scene: Scene) -> dict[str, Any]:
    """What is true of a scene, as plain values."""
    contrasts = {one.noun: one.contrast for one in scene.placed}
    return {"objects": scene.nouns, "cells": dict(scene.cells), "contrasts": contrasts, "missing": scene.missing}


def prompt_ids(tokenizer: PreTrainedTokenizerBase, image_token: str, text: str) -> list[int]:
    """Token ids of a prompt: what the tokenizer begins with, one image token per cell of the grid, the text."""
    return tokenizer(f"{image_token * GRID**2} {text}")["input_ids"]


def _inputs(model: Model, asked: Sequence[tuple[Scene, str]]) -> tuple[dict[str, Tensor], ...]:
    tokenizer, image_token = _fitting(model)
    pictures: dict[Scene, Tensor] = {}
    inputs = []
    for scene, text in asked:
        if scene not in pictures:
            pictures[scene] = as_pixels([draw_picture(scene)])
        ids = torch.tensor([prompt_ids(tokenizer, image_token, text)])
        inputs.append({"input_ids": ids, "pixel_values": pictures[scene]})
    return tuple(inputs)


def _fitting(model: Model) -> tuple[PreTrainedTokenizerBase, str]:
    """The model's tokenizer and image token; ValueError where pictures or words of scenes do not fit the model."""
    config: Any = model.hf.config
    vision = getattr(config, "vision_config", None)
    patches = getattr(vision, "image_size", 0), getattr(vision, "patch_size", 0)
    if patches != (SIZE, SIZE // GRID):
        raise ValueError(
            f"{model.name} takes pictures of size and patches {patches}; scenes are {SIZE} pixels wide with a patch of "
            f"{SIZE // GRID} for each cell. Use tiny-vlm, or a model with such a vision tower."
        )
    # a processor carries the tokenizer of its text
    tokenizer = getattr(model.tokenizer, "tokenizer", model.tokenizer)
    if tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer; load it with tokenizer=.")
    unknown = [word for word in words() if word not in tokenizer.get_vocab()]
    if unknown:
        raise ValueError(f"The tokenizer of {model.name} lacks {', '.join(unknown)}; scenes need each word as a token.")
    (image_token,) = Resolving(tokenizer, config)(Image()).ids  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer, tokenizer.convert_ids_to_tokens(image_token)
