"""Logistic regression, for the fits that a manifest has."""

from collections.abc import Sequence

import numpy as np

RIDGE = 1e-4
STEPS = 50


def fit_logistic(rows: Sequence[tuple[float, ...]], labels: Sequence[bool]) -> tuple[float, ...]:
    """Weights by Newton's method on standardised features, with a little ridge.

    Args:
        rows: features of each example, of which the first is one.
        labels: what they speak for.

    Raises:
        ValueError: all labels are the same, or there are none: nothing can be learned of the other kind.
    """
    if not any(labels) or all(labels):
        raise ValueError(
            f"{sum(labels)} of {len(labels)} examples are true, some of both kinds are needed to learn from"
        )
    features, targets = np.array(rows), np.array(labels, float)
    mean, deviation = features[:, 1:].mean(axis=0), features[:, 1:].std(axis=0) + 1e-9
    scaled = np.column_stack([np.ones(len(features)), (features[:, 1:] - mean) / deviation])
    ridge = RIDGE * len(targets)
    weights = np.zeros(scaled.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(scaled @ weights, -30, 30)))
        gradient = scaled.T @ (p - targets) + ridge * weights
        curvature = (scaled * (p * (1 - p))[:, None]).T @ scaled + ridge * np.eye(len(weights))
        change = np.linalg.solve(curvature, gradient)
        weights -= change
        if np.abs(change).max() < 1e-8:
            break
    plain = weights[1:] / deviation
    return (float(weights[0] - plain @ mean), *(float(w) for w in plain))
