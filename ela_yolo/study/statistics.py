"""Paired differences over seeds: how large they are, how sure that is, and what it says in words.

A seed is one draw of the initial weights and, as far as Ultralytics gives it (8.4.190 does, 8.4.108 does not), of the
order and the augmentation of the images. Two models trained with the same seeds are compared seed by seed; what is
tested is whether the sign of the difference could as well be chance. How far the difference depends on which images it
is measured on is another question: an interval over draws of the validation images tells, the seeds being what they
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # of the test
FEWEST_SEEDS, MOST_SEEDS = 3, 20  # to say anything at all; to try every pattern of signs in a moment
RESAMPLES = 20_000


@dataclass(frozen=True)
class Difference:
    """What a model has above the baseline in mAP50-95, seed by seed; its verdict is a sentence.

    Attributes:
        model: The model.
        values: A difference per seed.
        mean: Of them.
        deviation: Their standard deviation; None with one seed.
        low: Lower end of the bootstrap's 95% interval of the mean.
        high: Its upper end. With few seeds the interval is too narrow, so the verdict is left to the test.
        images_low: Lower end of the 95% interval of the mean over draws of the validation images.
        images_high: Its upper end.
        p: Of the exact two-sided sign-flip test.
        adjusted: ``p`` adjusted by Holm's method for the number of models compared.
        smallest: The smallest adjusted p that these numbers of seeds and models can give at all.
        needed: The fewest seeds with which that is below 0.05.
    """

    model: str
    values: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float
    high: float
    images_low: float
    images_high: float
    p: float
    adjusted: float
    smallest: float
    needed: int

    @property
    def sayable(self) -> bool:
        """Whether there are seeds enough for an interval and a test to mean anything."""
        return len(self.values) >= FEWEST_SEEDS

    @property
    def verdict(self) -> str:
        """What is shown and what is not, in one sentence."""
        seeds = len(self.values)
        numbers = f"{self.mean:+.4f} mAP50-95 on average of {seeds} seeds (95% interval {self.low:+.4f} to "
        numbers += (
            f"{self.high:+.4f}, p = {self.adjusted:.2g}; {self.smallest:.2g} is the smallest that {seeds} can give)"
        )
        if not self.sayable:
            said = f"nothing can be said with {seeds} seed{'s'[: seeds != 1]}"
            return f"{self.model}: {said}; take {FEWEST_SEEDS} or more, and {self.needed} or more to show anything"
        if self.smallest >= LEVEL:
            said = f"a gain or loss cannot be shown with {seeds} seeds, since the exact test never falls below {LEVEL}"
            return f"{self.model}: {said} with fewer than {self.needed}; {numbers}"
        if self.adjusted >= LEVEL:
            return f"{self.model}: neither a gain nor a loss is shown; {numbers}"
        return f"{self.model}: a {'gain' if self.mean > 0 else 'loss'} is shown; {numbers}"


def paired_differences(
    scores: Mapping[str, Sequence[float]],
    resampled: Mapping[str, Sequence[Sequence[float]]],
    models: Sequence[str] | None = None,
) -> tuple[Difference, ...]:
    """Compare models with the first one, the baseline, seed by seed.

    Args:
        scores: Model -> a value per seed, seeds in the same order.
        resampled: Model -> for each seed, a value per draw of the images, draws in the same order.
        models: Those to compare, the baseline first; None means all.
    """
    baseline, *others = models or scores
    values = {model: [b - a for a, b in zip(scores[baseline], scores[model], strict=True)] for model in others}
    p_values = [sign_flip_p(each) for each in values.values()]
    needed = next(n for n in range(FEWEST_SEEDS, 64) if smallest_p(n, len(others)) < LEVEL)
    differences = []
    for (model, each), p, adjusted in zip(values.items(), p_values, holm(p_values), strict=True):
        low, high = bootstrap_interval(each)
        images_low, images_high = interval_over_images(resampled[baseline], resampled[model])
        differences.append(
            Difference(
                model=model,
                values=tuple(each),
                mean=float(np.mean(each)),
                deviation=deviation(each),
                low=low,
                high=high,
                images_low=images_low,
                images_high=images_high,
                p=p,
                adjusted=adjusted,
                smallest=smallest_p(len(each), len(others)),
                needed=needed,
            )
        )
    return tuple(differences)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, by n - 1; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the percentile bootstrap's 95% interval of the mean; the same for the same values."""
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    means = sample[0] + (sample - sample[0])[draws].mean(axis=1)  # so that equal values have exactly their own mean
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def interval_over_images(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 95% percentile interval, over draws of the images, of the difference of two models' means over seeds.

    Args:
        baseline: For each seed, a value per draw.
        other: Likewise, of the same draws.
    """
    differences = np.mean(other, axis=0) - np.mean(baseline, axis=0)
    low, high = np.quantile(differences, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def sign_flip_p(values: Sequence[float]) -> float:
    """Return the exact two-sided p of a mean of zero: every pattern of signs is tried, so at most 20 values.

    It is the share of patterns whose sum is as far from zero as the one that was found, or farther.
    """
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    rounding = 1e-9 * float(np.sum(np.abs(values)))  # of sums that are equal but for the order of their parts
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - rounding))


def smallest_p(seeds: int, models: int = 1) -> float:
    """Return the smallest p of the test after Holm's adjustment: all differences of one model have the same sign."""
    return min(1.0, models * 2 / float(2**seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the order they came in."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
