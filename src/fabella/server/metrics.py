"""Prometheus metrics of one server; their names follow vLLM's."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabella.server.served_models import ServedModels

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histograms in seconds."""


class Metrics:
    """Counters of one application, with a registry of its own. They change in the event loop only."""

    def __init__(self, served: ServedModels) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fabella_requests", "Responses by route and status.", ["route", "status"], registry=registry
        )
        self.disconnects = Counter(
            "fabella_disconnects", "Clients that disconnected before the end of the response.", registry=registry
        )
        self.prompt_tokens = Counter("fabella_prompt_tokens", "Prompt tokens.", registry=registry)
        self.time_to_first_token = Histogram(
            "fabella_time_to_first_token_seconds",
            "Time from request to first token.",
            registry=registry,
            buckets=BUCKETS,
        )
        self.request_latency = Histogram(
            "fabella_e2e_request_latency_seconds", "Time from request to end of response.", registry=registry,
            buckets=BUCKETS,
        )  # fmt: skip
        registry.register(_SchedulerCollector(served))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _SchedulerCollector(Collector):
    """Reads the counts of the schedulers at each scrape: they change in other threads, and a reload replaces them."""

    def __init__(self, served: ServedModels) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("fabella_generation_tokens", "Generated tokens.", labels=["model"])
        running = GaugeMetricFamily("fabella_num_requests_running", "Sequences in the decode batch.", labels=["model"])
        waiting = GaugeMetricFamily("fabella_num_requests_waiting", "Sequences in the queue.", labels=["model"])
        for name, model in self._served.models.items():
            tokens.add_metric([name], self._served.generated_tokens(name))
            running.add_metric([name], model.scheduler.running)
            waiting.add_metric([name], model.scheduler.waiting)
        yield from (tokens, running, waiting)

    def describe(self) -> list[Metric]:
        """Names for registration, which must not touch schedulers that do not run yet."""
        return []
