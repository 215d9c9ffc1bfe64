"""How much memory a call has at its peak beyond what was there before it."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of PyTorch's allocations, the result included; on a CPU as its profiler counts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        del result
        return peak
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = call()
    del result
    allocations = [event for event in profile.events() if event.name == "[memory]"]
    allocations.sort(key=lambda event: event.time_range.start)
    held = peak = 0
    for event in allocations:
        held += event.cpu_memory_usage
        peak = max(peak, held)
    return peak
