"""What `static/gaze.js` draws, as plain values that fit a page: rows of attention in whole steps of their own."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from headlens.analyses.vision.gaze import Gaze
from headlens.hooks.sites import Head

# Bytes of attention in a page, before base64 makes four of three.
ROOM = 3_600_000
TOP = 12
_SIDE = 480  # pixels of a picture's longer side, at most


def gaze_data(
    gazes: Mapping[str, Gaze],
    pictures: Sequence[UInt8[np.ndarray, "_row _column 3"]],
    heads: Sequence[Head] | None = None,
    room: int = ROOM,
) -> dict[str, Any]:
    """Gazes of one prompt, by what they are called ("before", "after"), as values for JSON; `static/gaze.js` says what
    each of them is.

    Every head's share on the image is there. Its patches are for the heads that look most at the image over the answer
    (in any of the gazes), as many as `room` bytes hold, or for `heads`; and for the means over heads.

    ValueError for no gaze, gazes of different models or prompts, or another number of pictures.
    """
    every = [*gazes.values()]
    _check(every, pictures)
    first = every[0]
    kept, bits = _kept(every, heads, room)
    return {
        "pictures": [_png(picture) for picture in pictures],
        "grids": [[grid.rows, grid.columns, grid.image, grid.level] for grid in first.grids],
        "cells": first.cells.tolist(),
        "layers": first.attention.shape[1],
        "heads": first.attention.shape[2],
        "kept": [[*head] for head in kept],
        "bits": bits,
        "parts": [_part(name, one, kept, bits) for name, one in gazes.items()],
        "top": TOP,
    }


def steps_of(
    rows: Float32[np.ndarray, "token entry patch"], bits: int
) -> tuple[np.ndarray, Float32[np.ndarray, "token entry"]]:
    """Rows in whole steps, n standing for n * step, and each row's step: its largest number over 255 or 65,535."""
    most = 2**bits - 1
    step = (rows.max(-1) / most).astype(np.float32)
    divisor = np.where(step > 0, step, 1)[..., None]
    return np.rint(rows / divisor).clip(0, most).astype(f"<u{bits // 8}"), step


def _part(name: str, gaze: Gaze, kept: Sequence[Head], bits: int) -> dict[str, Any]:
    """The numbers of one gaze: entries are the mean over all heads, over each layer's, and the kept heads."""
    attention = gaze.attention
    means = attention.mean(2, dtype=np.float64)
    own = [attention[:, head.layer, head.head] for head in kept]
    rows = np.stack([means.mean(1), *means.swapaxes(0, 1), *own], 1).astype(np.float32)
    numbers, step = steps_of(rows, bits)
    return {
        "name": name,
        "answer": gaze.answer,
        "tokens": [*gaze.tokens],
        "prompt": gaze.n_prompt,
        "rows": _base64(numbers),
        "steps": _base64(step.astype("<f4")),
        "shares": _base64(np.rint(gaze.share().clip(0, 1) * 65535).astype("<u2")),
        "top": [
            {"head": [row["layer"], row["head"]], "label": row["label"], "share": round(row["share"], 5)}
            for row in gaze.top(TOP).to_dict("records")
        ],
    }


def _kept(gazes: Sequence[Gaze], heads: Sequence[Head] | None, room: int) -> tuple[list[Head], int]:
    """The heads whose patches are on the page, in order, and the bits of a number: 16 where that leaves none out."""
    n_layers, n_heads, n_patches = gazes[0].attention.shape[1:]
    if heads is None:
        over = np.max([_over_answer(gaze) for gaze in gazes], axis=0)
        order = np.argsort(-over, axis=None, kind="stable")
        wanted = [Head(*(int(axis) for axis in np.unravel_index(at, over.shape))) for at in order]
    else:
        wanted = [*heads]
    one = n_patches * sum(len(gaze.tokens) for gaze in gazes)
    means = n_layers + 1
    if 2 * one * (means + len(wanted)) <= room:
        return sorted(wanted), 16
    return sorted(wanted[: max(0, room // one - means)]), 8


def _over_answer(gaze: Gaze) -> np.ndarray:
    return gaze.share()[gaze.n_prompt :].mean(0)


def _check(gazes: Sequence[Gaze], pictures: Sequence[np.ndarray]) -> None:
    if not gazes:
        raise ValueError("There is no gaze to show; give one or more.")
    shapes = {(gaze.attention.shape[1:], gaze.grids, gaze.tokens[: gaze.n_prompt]) for gaze in gazes}
    if len(shapes) > 1:
        raise ValueError("These gazes are of different models, prompts or pictures; give gazes of one prompt.")
    count = len({grid.image for grid in gazes[0].grids})
    if len(pictures) != count:
        raise ValueError(f"{len(pictures)} pictures were given for a prompt with {count}.")


def _png(picture: UInt8[np.ndarray, "_row _column 3"]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _base64(numbers: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()
