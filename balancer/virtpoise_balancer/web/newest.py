"""A metric whose label values have no end, bounded to those that were used last."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

MetricT = TypeVar("MetricT", bound=MetricWrapperBase)


class Newest(Generic[MetricT]):
    """Keeps the ``most`` series that were used last. One that comes back begins at zero, as after a restart."""

    def __init__(self, metric: MetricT, most: int) -> None:
        self._metric = metric
        self._most = most
        self._used: dict[Sequence[str], None] = {}  # the one used last is the last
        self._lock = threading.Lock()

    def labels(self, *values: str) -> MetricT:
        with self._lock:
            child = self._metric.labels(*values)
            self._used.pop(values, None)
            self._used[values] = None
            if len(self._used) > self._most:
                oldest = next(iter(self._used))
                del self._used[oldest]
                self._metric.remove(*oldest)
            return child
