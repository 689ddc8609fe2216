"""Gaze: what part of its attention each head gives to each image patch, at the words behind a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

from headlens.analyses.arrays import load_arrays, save_arrays
from headlens.analyses.tokens import text_tokenizer
from headlens.analyses.vision.answers import answer_ids, greedy_answer, with_answer
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.watched_run import watched_run
from headlens.hooks.apply import Edit
from headlens.hooks.attention_taps import Watch
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Head, Site, parse_heads
from headlens.hooks.token_roles import Grid, TokenRoles, token_roles

if TYPE_CHECKING:
    import pandas

FORMAT = "headlens-gaze/1"


@dataclass(frozen=True, eq=False)
class Gaze:
    """Attention of text rows over image patches. A value: nothing in it can be changed.

    `attention` is the share of a row's attention that goes to one patch, 0 to 1; over all patches it sums to at most 1,
    the rest being on text. Patch p is the cell `cells[p]` = (grid, row, column) of `grids[grid]`, which says its
    picture; a picture has one grid, or two in models that read it as a whole and in finer tiles too. `tokens` are the
    prompt's text behind the first patch, and from `n_prompt` on the answer. `rows[t]` is the position of the row that
    is shown for token t: a prompt's token has its own row, and a token of the answer the row in front of it, which is
    the one that says it. So the first token of the answer has the numbers of the prompt's last.
    """

    attention: Float32[np.ndarray, "token layer head patch"]
    cells: Int32[np.ndarray, "patch 3"]
    grids: tuple[Grid, ...]
    tokens: tuple[str, ...]
    rows: tuple[int, ...]
    n_prompt: int
    answer: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("attention", np.float32), ("cells", np.int32)):
            copy = np.array(getattr(self, name), kind)
            copy.setflags(write=False)
            object.__setattr__(self, name, copy)

    @property
    def answer_tokens(self) -> range:
        """Which tokens are the answer's."""
        return range(self.n_prompt, len(self.tokens))

    def share(self) -> Float32[np.ndarray, "token layer head"]:
        """The share of each row's attention that is on image patches."""
        return self.attention.sum(-1)

    def over(self, token: int, head: str | tuple[int, int], grid: int = 0) -> Float32[np.ndarray, "row column"]:
        """One row of one head over a grid of patches; NaN where that has a cell without a patch."""
        layer, index = _head(head, self.attention.shape)
        own = self.cells[:, 0] == grid
        found = np.full((self.grids[grid].rows, self.grids[grid].columns), np.nan, np.float32)
        found[self.cells[own, 1], self.cells[own, 2]] = self.attention[token, layer, index][own]
        return found

    def top(self, k: int = 10, tokens: Sequence[int] | None = None) -> "pandas.DataFrame":
        """The k heads that look most at the image over these tokens (without them the answer's): label, layer, head,
        the mean share of their attention on patches, and the patch with most of it: picture, level, row, column, patch
        (its share)."""
        import pandas

        chosen = [*(self.answer_tokens if tokens is None else tokens)] or [*range(len(self.tokens))]
        mean = self.attention[chosen].mean(0, dtype=np.float64)
        shares = mean.sum(-1)
        order = np.argsort(-shares, axis=None, kind="stable")[:k]
        heads = [np.unravel_index(at, shares.shape) for at in order]
        best = [int(mean[layer, head].argmax()) for layer, head in heads]
        return pandas.DataFrame(
            {
                "label": [str(Head(int(layer), int(head))) for layer, head in heads],
                "layer": [int(layer) for layer, _ in heads],
                "head": [int(head) for _, head in heads],
                "share": [float(shares[at]) for at in heads],
                **self._places(np.array(best)),
                "patch": [float(mean[at][patch]) for at, patch in zip(heads, best, strict=True)],
            }
        )

    def to_frame(self) -> "pandas.DataFrame":
        """A row per token and head: part (prompt or answer), token, text, pos (of the row), label, layer, head, share
        (on all patches), and the patch with most of it: picture, level, row, column, patch (its share)."""
        import pandas

        n_tokens, n_layers, n_heads = self.attention.shape[:3]
        token, layer, head = (axis.ravel() for axis in np.indices((n_tokens, n_layers, n_heads)))
        best = self.attention.argmax(-1).ravel()
        return pandas.DataFrame(
            {
                "part": np.where(token < self.n_prompt, "prompt", "answer"),
                "token": token,
                "text": np.array(self.tokens, dtype=object)[token],
                "pos": np.array(self.rows)[token],
                "label": [str(Head(int(one), int(other))) for one, other in zip(layer, head, strict=True)],
                "layer": layer,
                "head": head,
                "share": self.share().ravel(),
                **self._places(best),
                "patch": self.attention.max(-1).ravel(),
            }
        )

    def _places(self, patches: Int[np.ndarray, " line"]) -> dict[str, np.ndarray]:
        """Columns of a table that say where these patches are."""
        own = np.array([(grid.image, grid.level) for grid in self.grids])[self.cells[patches, 0]]
        cells = self.cells[patches]
        return {"picture": own[:, 0], "level": own[:, 1], "row": cells[:, 1], "column": cells[:, 2]}

    def save(self, path: str | Path) -> None:
        """Write all of it to one safetensors file, atomically. Equal gazes make equal bytes."""
        about = {
            "format": FORMAT,
            "grids": [asdict(grid) for grid in self.grids],
            "provenance": dict(self.provenance),
            **{name: getattr(self, name) for name in ("n_prompt", "answer")},
            **{name: [*getattr(self, name)] for name in ("tokens", "rows")},
        }
        save_arrays(Path(path), {"attention": self.attention, "cells": self.cells}, about)

    @classmethod
    def load(cls, path: str | Path) -> "Gaze":
        """Read what `save` wrote. ValueError for a damaged file or one of another kind."""
        arrays, about = load_arrays(Path(path))
        if about.pop("format", None) != FORMAT:
            raise ValueError(f"{path} holds no Gaze of the format {FORMAT!r}.")
        grids = tuple(Grid(**grid) for grid in about.pop("grids"))
        lists = {name: tuple(about.pop(name)) for name in ("tokens", "rows")}
        fields: dict[str, Any] = {"grids": grids, **lists, **about, **arrays}
        return cls(**fields)


def gaze(
    model: Model,
    inputs: Mapping[str, Tensor],
    *,
    answer: str | Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    max_new_tokens: int = 40,
) -> Gaze:
    """Where each head of the main tower looks in the pictures of a prompt, at every word behind them.

    The prompt and its answer are run once, and of each layer's pattern only text rows over image patches are kept:
    float32 [token, layer, head, patch], 4 bytes each (LLaVA-1.5-7B: 2.4 MB a token). Which rows, `Gaze` says. Attention
    is what the model goes on with after `edits` (and those of an outer `model.edited(...)`). It shows where a head
    reads from, which is no evidence of what it takes from there.

    Args:
        inputs: a batch of 1 of the model's own, such as `image_prompt` makes; any number of pictures.
        answer: text or token ids that stand behind the prompt; without it what the model says under these edits,
            greedily, `max_new_tokens` at most.
        edits: as `model.edited` takes them.

    Raises:
        ValueError: for several prompts at once, no image tokens, no text behind the first picture, or an empty answer.
    """
    cells, grids, patches, roles = _patches(model, inputs)
    if answer is None:
        answer = greedy_answer(model, inputs, max_new_tokens=max_new_tokens, edits=edits)
    said = answer_ids(model, answer) if isinstance(answer, str) else [int(one) for one in answer]
    if not said:
        raise ValueError("The answer has no tokens; give one or more, or leave it out and let the model answer.")
    ids = inputs["input_ids"][0].tolist()
    words = (roles.of("text") | roles.of("special"))[0].tolist()
    prompt = [at for at in range(patches[0], len(ids)) if words[at]]
    rows = [*prompt, *(len(ids) - 1 + at for at in range(len(said)))]
    found = np.zeros((len(rows), model.n_layers, model.n_heads, len(patches)), np.float32)
    whole = with_answer(model, inputs, said)
    look = partial(_look, found, np.array(rows), np.array(patches))
    watches = [Watch(Site("pattern", layer), look, "The gaze") for layer in range(model.n_layers)]
    with model.edited(*edits):
        watched_run(model, whole)(watches)
    return Gaze(
        found,
        cells,
        grids,
        _texts(model, [*(ids[at] for at in prompt), *said]),
        tuple(rows),
        len(prompt),
        _said(model, said),
        {
            "analysis": "gaze",
            **samples_origin(model, Samples("prompt", (inputs,))),
            "answer_ids": said,
            "edits": [str(edit) for edit in edits],
        },
    )


def _look(
    found: Float32[np.ndarray, "token layer head patch"],
    rows: Int[np.ndarray, " token"],
    patches: Int[np.ndarray, " patch"],
    block: Block,
    pattern: Float[Tensor, "batch head row key"],
) -> None:
    """Keep the block's share of it; a block lacks the keys behind the last that one of its rows sees."""
    first_row, first_key = int(block.queries[0]), int(block.keys[0])
    tokens = np.flatnonzero((rows >= first_row) & (rows < first_row + pattern.shape[2]))
    there = np.flatnonzero((patches >= first_key) & (patches < first_key + pattern.shape[3]))
    if not len(tokens) or not len(there):
        return
    own, keys = (rows[tokens] - first_row).tolist(), (patches[there] - first_key).tolist()
    taken = pattern[0][:, own][:, :, keys].float().cpu().numpy()
    found[tokens[:, None], block.layer, :, there] = taken.transpose(1, 2, 0)


def _patches(
    model: Model, inputs: Mapping[str, Tensor]
) -> tuple[Int32[np.ndarray, "patch 3"], tuple[Grid, ...], list[int], TokenRoles]:
    """Each patch's grid, row and column, the grids, the patches' positions, and what every position is."""
    ids = inputs.get("input_ids")
    if ids is None or ids.ndim != 2 or len(ids) != 1:
        raise ValueError("A gaze is of one prompt; give input_ids of shape [1, pos] and what goes with them.")
    roles = token_roles(model.hf.config, inputs)
    (grids,) = roles.grids
    if not grids:
        raise ValueError(
            "This prompt has no image tokens that are patches of a picture, so there is nothing to look at; give one "
            "with a picture, to a model that reads it patch by patch."
        )
    own = {(grid.image, grid.level): at for at, grid in enumerate(grids)}
    image, level, row, column = (getattr(roles, name)[0].tolist() for name in ("image", "level", "row", "column"))
    at = [pos for pos, cell in enumerate(row) if cell >= 0]
    cells = [(own[image[pos], level[pos]], row[pos], column[pos]) for pos in at]
    return np.array(cells, np.int32), grids, at, roles


def _head(given: str | tuple[int, int], shape: tuple[int, ...]) -> Head:
    return parse_heads([given], shape[1], shape[2])[0]


def _texts(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as text; its number where there is no tokenizer."""
    tokenizer = text_tokenizer(model)
    return tuple(str(one) if tokenizer is None else tokenizer.decode([one]) for one in ids)


def _said(model: Model, ids: Sequence[int]) -> str:
    tokenizer = text_tokenizer(model)
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode([*ids]).strip()
