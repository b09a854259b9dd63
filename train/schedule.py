"""The learning rate over a run."""

import math


def one_cycle(step: int, *, steps: int, peak: float, warmup_share: float) -> float:
    """Rate for a step counted from 0: linear from peak/25 to `peak`, then along a cosine down to peak/1000."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return peak / 25 + (peak - peak / 25) * step / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.001 + 0.999 * (1 + math.cos(math.pi * done)) / 2)
