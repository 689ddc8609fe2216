"""Work that recurs in one shape, without its Python: captured once, compared with the plain way, and used if faster.

Between two kernels of a replayed pass Python walks through the model, some 9000 operations for 30 layers. A GPU that
finishes sooner than that waits. A captured pass (a CUDA graph) is started as a whole.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

# Tensors of fixed shapes in, one tensor out; all else that it reads stays where it is in memory.
Function = Callable[..., Tensor]
# Captured work that is kept holds memory of its own. Most of what recurs does so in a row, some in turns.
MOST_KEPT = 4


@runtime_checkable
class Backend(Protocol):
    """What can capture work on a device."""

    def capture(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        """A faster way to compute `function` of any inputs like these. RuntimeError where there is none."""
        ...

    def timed(self, do: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """How many seconds the device takes for it, and what it returns."""
        ...


@dataclass(eq=False)
class Captured:
    """Captured work by its key. What could not be captured, or was no faster, is in `refused` with the reason."""

    backend: Backend
    refused: dict[Hashable, str] = field(default_factory=dict)
    kept: OrderedDict[Hashable, Function] = field(default_factory=OrderedDict)
    met: set[Hashable] = field(default_factory=set)

    def __call__(self, plan: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> Tensor:
        """`function(*inputs)`. Of one plan, functions given here must differ in nothing but their inputs.

        Nothing is captured before it recurs: the first time of a plan and shape costs nothing.
        """
        key = (plan, tuple((tuple(each.shape), each.dtype) for each in inputs))
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key](*inputs)
        if key in self.refused or key not in self.met:
            self.met.add(key)
            return function(*inputs)
        return self._tried(key, function, inputs)

    def _tried(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> Tensor:
        """The plain way's answer; the captured way is kept if it gives the same in less time."""
        plainly, wanted = self.backend.timed(partial(function, *inputs))
        try:
            # not of these inputs: what has taken their values for constants must come out wrong
            captured = self.backend.capture(function, tuple(map(torch.zeros_like, inputs)))
            # the first time is not timed: it loads the graph
            found = captured(*inputs)
            took, _ = self.backend.timed(partial(captured, *inputs))
        except (RuntimeError, ValueError, TypeError) as problem:
            self._refuse(key, f"cannot be captured ({type(problem).__name__}: {_first_line(problem)})")
            return wanted
        error = float((found - wanted).abs().max())
        if not error <= tolerance(wanted):
            self._refuse(key, f"came out wrong by {error:.2g} when it was captured")
        elif took >= plainly:
            self.refused[key] = "is no faster when it is captured"
        else:
            self.kept[key] = captured
            if len(self.kept) > MOST_KEPT:
                dropped, _ = self.kept.popitem(last=False)
                # capturing costs several runs, so it has to recur again
                self.met.remove(dropped)
        return wanted

    def _refuse(self, key: Hashable, reason: str) -> None:
        known = reason in self.refused.values()
        self.refused[key] = reason
        if not known:
            warnings.warn(f"A replayed pass {reason}; such passes run without, only slower.", stacklevel=2)


def tolerance(wanted: Tensor) -> float:
    """How far a captured result may be from the plain one: rounding, since it is the same work."""
    return max(1e-4, 2 * torch.finfo(wanted.dtype).eps) * max(1.0, float(wanted.abs().max()))


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [""])[0]
