"""Which of the things that senders have written each receiver reads, where many sets of edges run at once.

What a sender writes has a version: cells in which it computed the same from the same share one. An input is known by
the versions that it holds, so equal inputs are seen to be equal before they are made.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Distinct inputs, as the version of each sender that they hold (0: what it writes ablated), and which of them each
    cell's receivers read. Input 0 holds nothing but ablated values."""

    rows: np.ndarray  # input, sender
    of: np.ndarray  # cell, receiver


@dataclass(eq=False)
class Versions:
    """What senders have written so far, as differences from what they write ablated, each version once.

    `kept` [cell, sender, receiver] are the edges that are left. `at` [cell, sender] is the version of each sender.
    """

    kept: np.ndarray
    at: np.ndarray = field(init=False)
    chunks: list[Float[Tensor, "version prompt suffix d_model"]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.at = np.zeros(self.kept.shape[:2], np.int64)

    def speaks(self, senders: slice) -> np.ndarray:
        """Which senders have an edge left, as booleans [cell, sender]; what others write never arrives."""
        return np.asarray(self.kept[:, senders].any(2))

    def inputs(self, receivers: np.ndarray, wanted: np.ndarray) -> Inputs:
        """The inputs of some receivers; those not `wanted` [cell, receiver] count as ablated."""
        reads = self.kept[:, :, receivers].transpose(0, 2, 1) & wanted[..., None]
        held = np.where(reads, self.at[:, None], 0).reshape(-1, self.at.shape[1])
        # sorted, so that the ablated input, which is put in front, is the first of the distinct ones
        rows, of = np.unique(np.concatenate([np.zeros_like(held[:1]), held]), axis=0, return_inverse=True)
        return Inputs(rows, of.reshape(-1)[1:].reshape(wanted.shape))

    def streams(
        self, rows: np.ndarray, ablated: Float[Tensor, "prompt pos d_model"]
    ) -> Float[Tensor, "input prompt pos d_model"]:
        """The inputs of these versions [input, sender], where all of them ablated sum to `ablated`.

        With fewer positions than were written, these are the last ones.
        """
        holds = torch.zeros(len(rows), self.count + 1, dtype=ablated.dtype)
        holds[torch.arange(len(rows))[:, None], torch.from_numpy(rows)] = 1
        stream, first = ablated.repeat(len(rows), 1, 1, 1), 1
        for chunk in self.chunks:
            own = holds[:, first : first + len(chunk)]
            held = own.any(0)
            if held.any():
                written = chunk[held.to(chunk.device), :, -ablated.shape[1] :].flatten(1)
                stream.view(len(rows), -1).addmm_(own[:, held].to(written), written)
            first += len(chunk)
        return stream

    def write(self, cells: np.ndarray, senders: np.ndarray, which: np.ndarray, values: Tensor) -> None:
        """In each of `cells` its one of `senders` writes `values[which]`."""
        self.at[cells, senders] = self.count + 1 + which
        self.chunks.append(values)
        self.count += len(values)
