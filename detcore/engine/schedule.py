"""The learning rate as a function of the step, and of nothing else: so a resumed run cannot be off by one."""

import math
from bisect import bisect_right

from detcore.config.training import MultiStep, OptimConfig


def lr_factor(step: int, *, total_steps: int, optim: OptimConfig) -> float:
    """What the base learning rates are multiplied by at `step`.

    Warm-up rises linearly from `warmup_factor` at step 0 to 1 at `warmup_steps` (Goyal et al., "Accurate, Large
    Minibatch SGD", 2017, section 2.2). The cosine (Loshchilov and Hutter, "SGDR", 2017, eq. 5) runs from there to the
    last step.

    Args:
        step: 0-based.
        total_steps: of the whole training.
        optim: the schedule and its warm-up.
    """
    warmup = 1.0
    if step < optim.warmup_steps:
        warmup += (optim.warmup_factor - 1.0) * (1.0 - step / optim.warmup_steps)
    schedule = optim.schedule
    if isinstance(schedule, MultiStep):
        milestones = sorted(round(fraction * total_steps) for fraction in schedule.milestones)
        return float(warmup * schedule.gamma ** bisect_right(milestones, step))
    descent = max(1, total_steps - 1 - optim.warmup_steps)
    progress = min(1.0, max(0.0, (step - optim.warmup_steps) / descent))
    return warmup * (schedule.final_factor + (1.0 - schedule.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress)))
