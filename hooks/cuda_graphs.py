"""Capturing work on one GPU as a CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.hooks.captured import Function

# Libraries choose their algorithms and take their workspaces the first times; a graph must not record that.
_WARM_UPS = 2


@dataclass(frozen=True)
class CudaGraphs:
    """CUDA graphs on this device."""

    device: torch.device

    def capture(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        """`function` as a graph over buffers of its own, into which inputs are copied.

        Whatever cannot be part of a graph (a copy to the CPU, a number that Python waits for) is a RuntimeError.
        """
        with torch.no_grad(), torch.cuda.device(self.device):
            buffers = tuple(each.clone() for each in inputs)
            aside = torch.cuda.Stream(self.device)
            aside.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    function(*buffers)
            torch.cuda.current_stream(self.device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the GPU meanwhile
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                out = function(*buffers)

        def replayed(*given: Tensor) -> Tensor:
            with torch.no_grad(), torch.cuda.device(self.device):
                for buffer, each in zip(buffers, given, strict=True):
                    buffer.copy_(each)
                graph.replay()
                # the next replay writes into the same memory
                return out.clone()

        return replayed

    def timed(self, do: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Seconds from the start of the work to its end on the GPU, waiting for Python included."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            began.record()
            result = do()
            ended.record()
            ended.synchronize()
        return began.elapsed_time(ended) / 1000, result
