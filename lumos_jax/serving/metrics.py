"""Counters in Prometheus' form. No label holds an id, a path or a client."""

from collections.abc import Callable

import prometheus_client as prometheus

_SECONDS = (
  *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025),
  *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)


class Metrics:
  """The service's counters, in a registry of their own."""

  def __init__(self):
    self._registry = prometheus.CollectorRegistry()
    kw = dict(registry=self._registry)
    self._requests = prometheus.Counter(
      "lumos_requests", "Requests answered", ["route", "status"], **kw
    )
    self._seconds = prometheus.Histogram(
      "lumos_request_seconds",
      "From a request's first byte to its answer's last",
      ["route"],
      buckets=_SECONDS,
      **kw,
    )
    self.running = prometheus.Gauge(
      "lumos_requests_running", "Requests being answered", **kw
    )
    self._children: dict[tuple[str, int], tuple] = {}
    prometheus.ProcessCollector(**kw)
    prometheus.GCCollector(**kw)

  def observe(self, route: str, status: int, seconds: float) -> None:
    """Counts an answered request."""
    found = self._children.get((route, status))
    if found is None:
      # Looked up once: labels take longer than counting.
      found = (
        self._requests.labels(route, str(status)),
        self._seconds.labels(route),
      )
      self._children[route, status] = found
    found[0].inc()
    found[1].observe(seconds)

  def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
    """A number that is asked for when the counters are read."""
    made = prometheus.Gauge(f"lumos_{name}", text, registry=self._registry)
    made.set_function(value)

  def text(self) -> bytes:
    """All counters."""
    return prometheus.generate_latest(self._registry)
