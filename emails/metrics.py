"""What Prometheus is told: the kept counts and where things stand, read from the database at each scrape.

Nothing is counted in this process, so that any web server gives the same answer for all of them.
"""

from collections.abc import Iterator
from itertools import accumulate

from django.conf import settings
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from emails import tallies
from emails.models import EmailRequest, Hold, Priority, Worker, database_now

UNDECIDED_COUNTED = 10_000  # no further


def text() -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Kept())
    return generate_latest(registry)


class Kept(Collector):
    def collect(self) -> Iterator[Metric]:
        totals = tallies.totals()
        by_queue = {priority.label: totals.get(priority, tallies.Counter()) for priority in Priority}
        yield from self._counters(by_queue)
        yield self._times(by_queue)
        yield from self._queues(by_queue)
        yield from self._surroundings()

    def _counters(self, by_queue: dict[str, tallies.Counter]) -> Iterator[Metric]:
        accepted = CounterMetricFamily("mailsite_accepted", "Messages accepted.", labels=["queue"])
        attempts = CounterMetricFamily("mailsite_attempts", "Attempts that the relay answered.", labels=["queue"])
        ended = CounterMetricFamily("mailsite_ended", "Messages that are finished.", labels=["queue", "outcome"])
        setbacks = CounterMetricFamily(
            "mailsite_setbacks", "Attempts after which a message waits on.", labels=["queue", "kind"]
        )
        for queue, counts in by_queue.items():
            accepted.add_metric([queue], counts["accepted"])
            attempts.add_metric([queue], counts["attempts"])
            for outcome in tallies.OUTCOMES:
                ended.add_metric([queue, outcome.value], counts[outcome])
            for kind in tallies.SETBACKS:
                setbacks.add_metric([queue, kind.value], counts[kind])
        yield from (accepted, attempts, ended, setbacks)

    def _times(self, by_queue: dict[str, tallies.Counter]) -> Metric:
        times = HistogramMetricFamily(
            "mailsite_sent_after_seconds", "From accepted, or the time it was scheduled for, to sent.", labels=["queue"]
        )
        bounds = [*map(str, map(float, tallies.BUCKETS)), "+Inf"]
        for queue, counts in by_queue.items():
            up_to = accumulate(counts[name] for name in tallies.TIMES)
            times.add_metric([queue], list(zip(bounds, up_to, strict=True)), counts["milliseconds"] / 1000)
        return times

    def _queues(self, by_queue: dict[str, tallies.Counter]) -> Iterator[Metric]:
        depth = GaugeMetricFamily("mailsite_queue_depth", "Messages that are not finished.", labels=["queue"])
        oldest = GaugeMetricFamily(
            "mailsite_queue_oldest_seconds",
            "For how long the oldest message that is due has been so.",
            labels=["queue"],
        )
        now = database_now()
        for priority in Priority:
            depth.add_metric([priority.label], max(0, tallies.unfinished(by_queue[priority.label])))
            first = EmailRequest.objects.oldest_due([priority], now)
            oldest.add_metric([priority.label], (now - first.due_at).total_seconds() if first else 0)
        yield from (depth, oldest)
        yield GaugeMetricFamily(
            "mailsite_undecided",
            f"Uncertain messages that wait for a person's decision, counted to {UNDECIDED_COUNTED:,}.",
            value=EmailRequest.objects.undecided()[:UNDECIDED_COUNTED].count(),
        )

    def _surroundings(self) -> Iterator[Metric]:
        holds = Hold.in_force()
        yield GaugeMetricFamily("mailsite_workers", "Workers seen within the lease.", value=Worker.alive().count())
        relay = GaugeMetricFamily("mailsite_relay_usable", "0 while the relay is in trouble.", labels=["relay"])
        relay.add_metric([str(settings.RELAY)], int(Hold.Target.TROUBLE not in holds.by_target))
        paused = GaugeMetricFamily("mailsite_paused", "1 for what an operator has paused.", labels=["target"])
        for target in (*Priority.labels, Hold.Target.RELAY):
            paused.add_metric([str(target)], int(target in holds.by_target))
        yield from (relay, paused)
