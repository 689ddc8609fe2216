"""Stand-ins for a module's forward, for the length of a `with` block.

A forward hook can change what a module returns but not spare its arithmetic; a shadow replaces the call itself.
Only instance attributes are touched, and what was there before (for instance accelerate's wrapper) comes back.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def shadowed(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Call `forwards[module]` instead of `module.forward`; undone on exit, also after an exception."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward
