"""Cross-modal attention inhibition, after CMAI (2411.15453): text rows see the patches that their text looks at most.

    F = A_TT A_TI

A_TT is the attention of text tokens to text, A_TI that of text tokens to image patches, of one head: a token takes over
the focus of the text that it attends to. In each text row the patches with the largest F are kept, and the others are
hidden before softmax, so that what is kept takes what they had.

What is public of the paper names F, and that pairs of text and image with a small F are inhibited; the form of the
inhibition, its threshold, its layers and whether heads are averaged are not there. Hiding, by share, in each head of
the layers named, is ours.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.hooks.edits import Heads
from headlens.hooks.group_masks import keys_of
from headlens.hooks.groups import Chosen, Either, TokenIds
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.row_edits import KnockOut


def inhibit_cross_modal(model: Model, keep: float = 0.5, *, heads: Heads = "all") -> KnockOut:
    """The edit that hides, in each text row, all but the `keep` patches with the largest focus (after 2411.15453).

    It is a knock-out with policy renorm. Rows keep their text, so none is ever empty, and sum to 1. Rows of patches,
    padding, and text before every picture stay bit for bit as they were. F is that of the heads before the edit, found
    anew in each run and layer, over all pictures of a prompt at once; in a cached run it remembers the rows before, so
    the edit must be there when a run starts, and refuses beam search.

    Args:
        keep: the share of a row's visible patches that is kept, 0 to 1, rounded up; 1 changes nothing, 0 hides all.
        heads: which heads, "all" or some.

    Raises:
        ValueError: for a share outside of 0 to 1, and a model that names no image token.
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep} was given; expected the share of a row's patches that is kept, 0 to 1.")
    rule = Inhibition(image_tokens(model), keep)
    # a group of no tokens marks the edit as one that remembers, so that a cache that it does not know is refused
    return KnockOut(heads, groups=Either((Chosen(rule), TokenIds(()))), policy="renorm")


def focus(
    text_to_text: Float[Tensor, "*head row text"], text_to_image: Float[Tensor, "*head text patch"]
) -> Float[Tensor, "*head row patch"]:
    """F = A_TT A_TI: where in the image the text is that a row attends to. A row that attends to itself alone has its
    own attention to the image."""
    return text_to_text @ text_to_image


@dataclass(frozen=True)
class Inhibition:
    """The rule, as a function from a block of rows to the keys that are hidden. What it remembers is the run's."""

    image: TokenIds
    keep: float

    def __call__(self, block: Block) -> Bool[Tensor, "batch head row key"]:
        memory = block.clock.memory.setdefault((self, block.layer), {})
        # of each key, and [batch, row]
        image = keys_of(self.image, block, memory.setdefault("tokens", {}))[:, 0, 0].expand(len(block.scores), -1)
        rows = ~image[:, block.queries - block.keys[0]] & block.real
        columns = self._columns(block)
        looks = self._looks(block, memory, columns, rows)
        # what looks at patches plays no part: they are no text, and their own looks are 0
        found = focus(block.pattern, looks[:, :, block.keys.clamp(max=looks.shape[2] - 1)])
        # a sliding window has forgotten the first keys
        at = columns - block.keys[0]
        there = (at >= 0) & (at < len(block.keys))
        found, at = found[..., there], at[there]
        may = (image[:, None, None] & block.visible)[..., at] & rows[:, None, :, None]
        hidden = torch.zeros(block.scores.shape, dtype=torch.bool, device=block.scores.device)
        hidden[..., at] = may & ~_largest(found, may, self.keep)
        return hidden

    def _columns(self, block: Block) -> Int[Tensor, " column"]:
        """Positions that are a patch in one of the prompts."""
        tokens = block.clock.tokens
        assert tokens is not None  # keys_of has asked for them
        among = torch.isin(tokens, torch.tensor(self.image.ids, device=tokens.device)).any(0)
        return among.nonzero()[:, 0].to(block.keys.device)

    def _looks(
        self, block: Block, memory: dict[str, Any], columns: Int[Tensor, " column"], rows: Bool[Tensor, "batch row"]
    ) -> Float[Tensor, "batch head pos column"]:
        """A_TI of all rows so far, 0 at rows that are no text; rows of this block are added to those remembered."""
        at = columns - block.keys[0]
        there = (at >= 0) & (at < len(block.keys))
        new = block.pattern.new_zeros(*block.pattern.shape[:3], len(columns))
        new[..., there] = block.pattern[..., at[there]]
        image = keys_of(self.image, block, memory["tokens"]).expand(len(new), 1, 1, -1)
        new[..., there] = torch.where(image[..., at[there]], new[..., there], 0)
        new = torch.where(rows[:, None, :, None], new, 0)
        before = memory.get("looks", new[:, :, :0])[:, :, : int(block.queries[0])]
        # a later picture has columns that earlier rows did not see
        before = torch.nn.functional.pad(before, (0, len(columns) - before.shape[-1]))
        memory["looks"] = torch.cat([before, new], 2)
        return memory["looks"]


def _largest(
    values: Float[Tensor, "batch head row column"], among: Bool[Tensor, "batch head row column"], share: float
) -> Bool[Tensor, "batch head row column"]:
    """The share of `among` with the largest values, rounded up; of equal ones the first."""
    order = values.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(-1)
    # 0.1 of 30 is 3, not a rounding error above it
    counts = (among.sum(-1, keepdim=True).double() * share - 1e-9).ceil()
    return rank < counts
