"""EdgeMap: a number for every edge of a model's wiring, with what it was measured on and in which units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.arrays import load_arrays, save_arrays
from headlens.analyses.headmap import HeadMap
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.wiring import Wiring

if TYPE_CHECKING:
    import pandas

FORMAT = "headlens-edgemap/1"


@dataclass(frozen=True, eq=False)
class EdgeMap:
    """Values [sender, receiver] in the order of `wiring`, float32, NaN where there is no edge or no measurement.

    `sign` says what a positive value means, `provenance` what the map was made from. A value: nothing in it can be
    changed. It holds means over prompts alone (a number per prompt and edge would be as many times larger), so it has
    no intervals.
    """

    values: np.ndarray
    wiring: Wiring
    name: str
    units: str
    sign: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.array(self.values, np.float32)
        if values.shape != self.wiring.possible.shape:
            raise ValueError(
                f"Values of shape {values.shape} were given; this wiring has {len(self.wiring.senders)} senders and "
                f"{len(self.wiring.receivers)} receivers."
            )
        wrong = np.argwhere(~np.isnan(values) & ~self.wiring.possible)
        if len(wrong):
            raise ValueError(
                f"There is no edge {self.label(wrong[0].tolist())}, and it was given a value; give NaN there."
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """The names of the rows: embed, L0H0, ..., MLP0, ..."""
        return tuple(str(node) for node in self.wiring.senders)

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """The names of the columns: L0H0.q, ..., L0KV0.k, L0KV0.v, ..., MLP0, ..., logits."""
        return tuple(str(node) for node in self.wiring.receivers)

    def label(self, edge: Sequence[int]) -> str:
        """An edge's name: "L3H1 -> L5H0.q"."""
        sender, receiver = edge
        return f"{self.senders[sender]} -> {self.receivers[receiver]}"

    def of(self, sender: str, receiver: str) -> float:
        """The value of one edge, by names such as "L3H1" and "L5H0.q". ValueError for an edge that does not exist."""
        row, column = _place("sender", sender, self.senders), _place("receiver", receiver, self.receivers)
        if not self.wiring.possible[row, column]:
            raise ValueError(f"There is no edge {sender} -> {receiver}: {receiver} does not read what {sender} writes.")
        return float(self.values[row, column])

    def heads(self) -> HeadMap:
        """The sum of each head's outgoing edges, over (layer, head); NaN where one of them was not measured.

        Of first-order values that is the head's own first-order value: the gradient by what a head writes is the sum of
        those by the inputs that read it. Of exact effects it is not the head's effect.
        """
        summed = np.where(self.wiring.possible, self.values, 0).sum(1)
        rows = [row for row, node in enumerate(self.wiring.senders) if node.kind == "head"]
        return HeadMap(
            values=summed[rows].reshape(self.wiring.n_layers, self.wiring.n_heads),
            dims=("layer", "head"),
            name=f"{self.name}, summed over each head's outgoing edges",
            units=self.units,
            sign=self.sign,
            provenance=self.provenance,
        )

    def top(self, k: int = 10) -> "pandas.DataFrame":
        """The k edges of largest magnitude, largest first: sender, receiver, value."""
        rows, columns = np.nonzero(~np.isnan(self.values))
        order = np.argsort(-np.abs(self.values[rows, columns]), kind="stable")[:k]
        return self._frame(rows[order], columns[order])

    def to_frame(self) -> "pandas.DataFrame":
        """One row per edge of the wiring: sender, receiver, value (NaN where it was not measured)."""
        return self._frame(*np.nonzero(self.wiring.possible))

    def _frame(self, rows: np.ndarray, columns: np.ndarray) -> "pandas.DataFrame":
        import pandas

        return pandas.DataFrame(
            {
                "sender": np.array(self.senders)[rows],
                "receiver": np.array(self.receivers)[columns],
                "value": self.values[rows, columns],
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the whole map to one safetensors file, atomically. Equal maps make equal bytes."""
        save_arrays(Path(path), {"values": self.values}, {"format": FORMAT, **self.described()})

    @classmethod
    def load(cls, path: str | Path) -> "EdgeMap":
        """Read what `save` wrote. ValueError for a damaged file or one of another kind."""
        arrays, about = load_arrays(Path(path))
        if about.pop("format", None) != FORMAT or "values" not in arrays:
            raise ValueError(f"{path} holds no EdgeMap of the format {FORMAT!r}.")
        return cls.from_described(about, **arrays)

    def described(self) -> dict[str, Any]:
        """Everything but the numbers, as plain values."""
        wiring = self.wiring
        return {
            "name": self.name,
            "units": self.units,
            "sign": self.sign,
            "wiring": {"n_heads": wiring.n_heads, "n_kv_heads": wiring.n_kv_heads, "mlps": [*wiring.mlps]},
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_described(cls, about: Mapping[str, Any], **arrays: np.ndarray) -> "EdgeMap":
        """The map of a description that `described` made, and its values."""
        wiring = Wiring(about["wiring"]["n_heads"], about["wiring"]["n_kv_heads"], tuple(about["wiring"]["mlps"]))
        fields: dict[str, Any] = {**about, "wiring": wiring, **arrays}
        return cls(**fields)

    def __repr__(self) -> str:
        measured = int(np.count_nonzero(~np.isnan(self.values)))
        return f"EdgeMap({self.name!r}: {measured} of {int(self.wiring.possible.sum())} edges)"


def _place(what: str, name: str, known: tuple[str, ...]) -> int:
    if name not in known:
        raise ValueError(
            f"There is no {what} {name!r}{did_you_mean(name, known)}; they run from {known[0]} to {known[-1]}."
        )
    return known.index(name)
