"""Times calls alternately, so that other work of the machine affects all of them alike, and names the machine."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ela_yolo.host.scoring import interval

RESAMPLES = 2000
WARM_UP = 3  # rounds that are not counted


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int, rest: float = 0) -> dict[str, list[float]]:
    """Return the seconds of each call, round by round. The order of the calls changes from round to round.

    Args:
        calls: The calls to time, by name.
        rounds: The number of rounds; in each of them every call is timed once.
        rest: A pause in seconds before each call, and then an untimed call. The threads of some runtimes keep spinning
            for a while after a run, and would disturb the next call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-WARM_UP, rounds):
        for name in random.Random(turn).sample([*calls], len(calls)):
            if rest:
                time.sleep(rest)
                calls[name]()
            start = time.perf_counter()
            calls[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio_of(plain: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return the median ratio over rounds of ``alternate``, and the ends of its 95% interval.

    The interval is a bootstrap over the rounds. It does not cover changes of the machine load from hour to hour.

    Examples:
        >>> ratio_of([1.0, 2.0, 4.0], [1.1, 2.2, 4.4])
        (1.1, 1.1, 1.1)
    """
    ratios = np.divide(other, plain)
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    return float(np.median(ratios)), *interval(np.median(draws, axis=1))


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def machine() -> str:
    """Return the processor, the number of cores and of PyTorch's threads, and the version of PyTorch."""
    threads = torch.get_num_threads()
    return f"{processor()}, {os.cpu_count()} cores, {threads} of them for PyTorch {torch.__version__}"
