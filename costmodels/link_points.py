"""Measured transfers over a link, as ``(bytes, seconds)`` points, and the times between them.

Between two points a time is linear in the bytes. Below the smallest message it is that message's
time (latency, so at worst too long). Beyond the largest, time grows with the bytes at the largest
one's rate: a longer message is cut into pieces of that size.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

Points = tuple[tuple[int, float], ...]
"""``(bytes, seconds)``, both strictly increasing."""


@dataclass(frozen=True, slots=True)
class LinkPoints:
    """Times of messages between ``chips`` processes on each side, all of them at once.

    ``bytes`` is what all processes send together, one way.
    """

    chips: int
    points: Points

    def __post_init__(self) -> None:
        ordered = all(a[0] < b[0] and a[1] < b[1] for a, b in zip(self.points, self.points[1:]))
        if not self.points or not ordered or self.points[0][0] < 1 or self.points[0][1] <= 0:
            raise ValueError("link points must be positive and increase in bytes and in seconds")

    def seconds(self, bytes_: float) -> float:
        """Seconds of a message of ``bytes_``; no bytes take no time."""
        if bytes_ <= 0:
            return 0.0
        sizes = [size for size, _ in self.points]
        at = bisect_left(sizes, bytes_)
        if at == len(sizes):
            largest, seconds = self.points[-1]
            return seconds * bytes_ / largest
        size, seconds = self.points[at]
        if at == 0 or size == bytes_:
            return seconds
        below, before = self.points[at - 1]
        return before + (seconds - before) * (bytes_ - below) / (size - below)

    def rate(self, bytes_: float) -> float:
        """Bytes per second that a message of ``bytes_`` reaches; ``bytes_`` > 0."""
        return bytes_ / self.seconds(bytes_)

    @property
    def bandwidth(self) -> float:
        """The best rate of any point, bytes/s: no message of a measured size is faster."""
        return max(size / seconds for size, seconds in self.points)

    @property
    def latency_s(self) -> float:
        """What the smallest message takes beyond its bytes at the best rate."""
        size, seconds = self.points[0]
        return max(0.0, seconds - size / self.bandwidth)
