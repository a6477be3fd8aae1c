"""Paired differences over seeds: their size, their uncertainty, and a verdict in words.

A seed sets the initial weights. In Ultralytics 8.4.190, but not in 8.4.108, it also sets the order and the augmentation
of the images. Two models trained with the same seeds are compared seed by seed. A test asks whether the sign of the
difference could be chance. The difference also depends on the images on which it is measured: an interval over draws of
the validation images, with the seeds fixed, shows how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ela_yolo.host.scoring import interval

LEVEL = 0.05  # the significance level of the test
MIN_SEEDS, MAX_SEEDS = 3, 20  # fewer tell nothing; with more, trying every pattern of signs takes too long
RESAMPLES = 20_000


@dataclass(frozen=True)
class Difference:
    """The difference of a model to the baseline in the main metric, seed by seed.

    Attributes:
        model: The name of the model.
        metric: The name of the metric.
        values: The difference with each seed.
        mean: The mean of the differences.
        deviation: Their standard deviation; None with one seed.
        low: The lower end of the bootstrap's 95% interval of the mean.
        high: The upper end. With few seeds the interval is too narrow, so the verdict depends on the test alone.
        images_low: The lower end of the 95% interval of the mean over draws of the images; None if the task has none.
        images_high: The upper end.
        p: The p-value of the exact two-sided sign-flip test.
        adjusted: ``p`` adjusted by Holm's method for the number of models.
        min_p: The smallest adjusted p that is possible with these numbers of seeds and models.
        min_seeds: The smallest number of seeds with which ``min_p`` is below 0.05.

    Examples:
        >>> scores = {"plain": [0.40, 0.41, 0.39], "ela": [0.41, 0.42, 0.40]}
        >>> (difference,) = paired_differences(scores, {"plain": [[0.40]] * 3, "ela": [[0.41]] * 3})
        >>> round(difference.mean, 4), difference.p, difference.min_seeds
        (0.01, 0.25, 6)
        >>> difference.verdict  # doctest: +ELLIPSIS
        'ela: a gain or loss cannot be shown with 3 seeds, ...'
    """

    model: str
    metric: str
    values: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float
    high: float
    images_low: float | None
    images_high: float | None
    p: float
    adjusted: float
    min_p: float
    min_seeds: int

    @property
    def has_enough_seeds(self) -> bool:
        """Whether there are enough seeds for an interval and a test."""
        return len(self.values) >= MIN_SEEDS

    @property
    def verdict(self) -> str:
        """A sentence that says whether a gain or a loss is shown."""
        seeds = len(self.values)
        numbers = f"{self.mean:+.4f} {self.metric} on average of {seeds} seeds (95% interval {self.low:+.4f} to "
        numbers += f"{self.high:+.4f}, p = {self.adjusted:.2g}; {self.min_p:.2g} is the smallest that {seeds} can give)"
        if not self.has_enough_seeds:
            said = f"nothing can be said with {seeds} seed{'s'[: seeds != 1]}"
            return f"{self.model}: {said}; take {MIN_SEEDS} or more, and {self.min_seeds} or more to show anything"
        if self.min_p >= LEVEL:
            said = f"a gain or loss cannot be shown with {seeds} seeds, since the exact test never falls below {LEVEL}"
            return f"{self.model}: {said} with fewer than {self.min_seeds}; {numbers}"
        if self.adjusted >= LEVEL:
            return f"{self.model}: neither a gain nor a loss is shown; {numbers}"
        return f"{self.model}: a {'gain' if self.mean > 0 else 'loss'} is shown; {numbers}"


def paired_differences(
    scores: Mapping[str, Sequence[float]],
    resampled: Mapping[str, Sequence[Sequence[float]]],
    metric: str = "mAP50-95",
) -> tuple[Difference, ...]:
    """Compare models with the first one, the baseline, seed by seed.

    Args:
        scores: Model -> the score with each seed; all models have the same seeds in the same order.
        resampled: Model -> for each seed, the score of each draw of the images; the draws are the same for all. Empty
            if the task has no such draws.
        metric: The name of the metric.
    """
    baseline, *others = scores
    values = {model: [b - a for a, b in zip(scores[baseline], scores[model], strict=True)] for model in others}
    p_values = [sign_flip_p(each) for each in values.values()]
    min_seeds = next(n for n in range(MIN_SEEDS, 64) if min_p(n, len(others)) < LEVEL)
    differences = []
    for (model, each), p, adjusted in zip(values.items(), p_values, holm(p_values), strict=True):
        low, high = bootstrap_interval(each)
        images_low, images_high = interval_over_images(resampled[baseline], resampled[model])
        differences.append(
            Difference(
                model=model,
                metric=metric,
                values=tuple(each),
                mean=float(np.mean(each)),
                deviation=deviation(each),
                low=low,
                high=high,
                images_low=images_low,
                images_high=images_high,
                p=p,
                adjusted=adjusted,
                min_p=min_p(len(each), len(others)),
                min_seeds=min_seeds,
            )
        )
    return tuple(differences)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, with n - 1; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean by the percentile bootstrap; the same values give the same interval."""
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    means = sample[0] + (sample - sample[0])[draws].mean(axis=1)  # so that the mean of equal values is exact
    return interval(means)


def interval_over_images(
    baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> tuple[float | None, float | None]:
    """Return the 95% percentile interval over draws of the images, for the difference of two models' means over seeds.

    Both ends are None if a run has no draws.
    """
    if not all(len(draws) for draws in (*baseline, *other)):
        return None, None
    return interval(np.mean(other, axis=0) - np.mean(baseline, axis=0))


def sign_flip_p(values: Sequence[float]) -> float:
    """Return the exact two-sided p-value for a mean of zero, for at most 20 values.

    Every pattern of signs is tried. p is the share of patterns whose sum is at least as far from zero as the sum of the
    values.

    Examples:
        >>> sign_flip_p([0.01, 0.02, 0.01])  # 2 of the 8 patterns: all signs equal
        0.25
    """
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    rounding = 1e-9 * float(np.sum(np.abs(values)))  # the order of summation changes equal sums by so much
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - rounding))


def min_p(seeds: int, models: int = 1) -> float:
    """Return the smallest possible p after Holm's adjustment, which differences of equal sign give."""
    return min(1.0, models * 2 / float(2**seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the same order.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
