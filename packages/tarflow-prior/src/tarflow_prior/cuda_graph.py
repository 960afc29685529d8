"""A step recorded once on a GPU and replayed, without its launches."""

from collections.abc import Callable

import torch


def captured(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the replay of a CUDA graph of the step, captured on the device where it computes.

    Other threads, such as one that copies a training batch, may use CUDA meanwhile.

    Args:
        step: What to record; it is run three times.
        device: The device.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate on their first calls, outside the graph
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            step()
    return graph.replay
