"""Matrix products with weights packed once, which pays where each weight is used hundreds of times, as in a sweep.

On CPUs torch multiplies float32 matrices as they lie in memory. oneDNN, which comes with torch, is faster once a weight
lies in blocks of its own choosing (measured on an AMD EPYC core with the shapes of a 135M-parameter model: 105 against
93 GFLOP/s). torch reaches it through operators meant for its compiler, so a weight is packed only after they have given
the right answer once in this process.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Float[Tensor, "*row d_in"]], Float[Tensor, "*row d_out"]]


def pack(weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None) -> Product | None:
    """A function that does `x @ weight.T + bias` with a packed copy of the weight, or None where that cannot be.

    It has no gradient. The copy takes as much memory as the weight, and does not follow later changes of it.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _operators_work():
        return None
    return _pack(weight.detach(), bias)


def _pack(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@cache
def _operators_work() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((2, 3, 17), (5, 17), (5,)))
    try:
        error = (_pack(weight, bias)(x) - torch.nn.functional.linear(x, weight, bias)).abs().max()
    # private operators: another version of torch may lack them or call them differently
    except (AttributeError, RuntimeError, TypeError):
        return False
    return float(error) < 1e-5
