"""Which of several settings no other one beats."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is at least as low as in both, and lower in one; by the first figure.

    Of equal points the first counts. Points with a NaN are on no front.

    Example:
        >>> pareto_front([(0.1, 3.0), (0.5, 1.0), (0.5, 2.0), (0.9, 1.0), (0.1, 3.0)])
        [0, 1]
    """
    usable = [index for index, (first, second) in enumerate(points) if first == first and second == second]
    front, lowest = [], float("inf")
    for index in sorted(usable, key=lambda index: (points[index], index)):
        if points[index][1] < lowest:
            front.append(index)
            lowest = points[index][1]
    return front
