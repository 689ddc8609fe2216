"""Logits that notice which positions a metric reads, so that only those need to be computed."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

_tensor: Any = Tensor
# Questions about the tensor that read none of its entries.
_ABOUT = {
    *(about.__get__ for about in (_tensor.shape, _tensor.dtype, _tensor.device, _tensor.ndim)),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point),
}


class Reached(Exception):
    """A metric read a position that was not computed: `first` is the earliest that has to be."""

    def __init__(self, first: int) -> None:
        super().__init__(f"position {first} was read")
        self.first = first


class Logits(Tensor):
    """Patched logits [batch, pos, vocabulary] of which those before position `first` were not computed.

    Before `start` they are the base run's. Reading any between the two raises Reached. An indexing such as
    `logits[:, -1]` or `logits[rows, end, tokens]` reads the positions it names; whatever else is done reads all. The
    tensor has no storage of its own, so nothing can read it unnoticed.
    """

    base: Tensor
    tail: Tensor
    start: int
    first: int
    wanted: int | None
    _whole: Tensor | None

    @staticmethod
    def __new__(cls, base: Tensor, tail: Tensor, start: int) -> "Logits":
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportAttributeAccessIssue]
        return make(cls, base.shape, dtype=tail.dtype, device=tail.device)

    def __init__(
        self, base: Float[Tensor, "batch pos token"], tail: Float[Tensor, "batch last token"], start: int
    ) -> None:
        self.base, self.tail, self.start = base, tail, start
        self.first = base.shape[1] - tail.shape[1]
        self.wanted = self._whole = None

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.__getitem__ and type(args[0]) is cls:
            return args[0].at(args[1])
        if func in _ABOUT:
            return super().__torch_function__(func, types, args, kwargs or {})
        return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        plain: Any = tree_map_only(cls, lambda logits: logits.whole(), (args, kwargs or {}))
        return func(*plain[0], **plain[1])

    def at(self, key: Any) -> Tensor:
        """`logits[key]`."""
        found = None if self._whole is not None else _positions(key, self.base.shape[1])
        if found is None:
            return self.whole()[key]
        earliest, (before, shifted, behind) = found
        if earliest >= self.first:
            return self.tail[(*before, shifted(self.first), *behind)]
        self._need(max(earliest, self.start))
        return self.whole()[key]

    def whole(self) -> Tensor:
        """All positions as a plain tensor; what is written into it stays there."""
        self._need(self.start)
        if self._whole is None:
            self._whole = torch.cat([self.base[:, : self.first].to(self.tail.dtype), self.tail], 1)
        return self._whole

    def _need(self, first: int) -> None:
        if first < self.first:
            # kept as well, for a metric that catches exceptions
            self.wanted = first if self.wanted is None else min(first, self.wanted)
            raise Reached(first)


# What stands before the index of positions, that index on a tensor that begins at a given position, and what follows.
_Split = tuple[tuple, Callable[[int], Any], tuple]


def _positions(key: Any, length: int) -> tuple[int, _Split] | None:
    """The earliest position that `logits[key]` reads, and the key taken apart; None where that is not plain to see."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(dots) == 1:
        parts[dots[0] : dots[0] + 1] = [slice(None)] * (4 - len(parts))
    if not 2 <= len(parts) <= 3 or not all(_takes_one_axis(part) for part in parts):
        return None
    found = (_spanned if isinstance(parts[1], slice) else _numbered)(parts[1], length)
    return found and (found[0], ((parts[0],), found[1], tuple(parts[2:])))


def _spanned(span: slice, length: int) -> tuple[int, Callable[[int], Any]] | None:
    """The earliest position of a slice, and the same slice from a given position on."""
    start, stop, step = span.indices(length)
    if step < 1 or start >= stop:
        return None
    return start, lambda first: slice(start - first, stop - first, step)


def _numbered(position: Any, length: int) -> tuple[int, Callable[[int], Any]] | None:
    """The earliest of positions given by number, and the same numbers from a given position on."""
    if _is_number(position):
        number = operator.index(position)
        number = number + length if number < 0 else number
        return (number, lambda first: number - first) if 0 <= number < length else None
    numbers = torch.as_tensor(position)
    numbers = torch.where(numbers < 0, numbers + length, numbers)
    if numbers.dtype == torch.bool or numbers.numel() == 0 or not bool(((numbers >= 0) & (numbers < length)).all()):
        return None
    return int(numbers.min()), lambda first: numbers - first


def _takes_one_axis(part: Any) -> bool:
    """Whether an index is a number, a slice, or whole numbers in a list, range, array or tensor."""
    if isinstance(part, slice) or _is_number(part):
        return True
    try:
        return part is not None and not isinstance(part, bool) and _is_whole(torch.as_tensor(part))
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_whole(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)


def _is_number(part: Any) -> bool:
    return hasattr(part, "__index__") and not isinstance(part, bool | Tensor) and getattr(part, "ndim", 0) == 0
