"""The Prometheus metrics, in a registry of their own for each app.

Label values come from closed sets (enums) or from files (policy, probe, model names): nothing that a caller
sends becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from probes.types import Manifest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROBABILITY_BUCKETS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """All metrics of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "plumbline_requests",
            "Choices of requests by what was decided.",
            ("model", "phase", "action", "mode", "status"),
            registry=registry,
        )
        self.refused = Counter(
            "plumbline_requests_refused",
            "Requests answered with an error, by its code.",
            ("code",),
            registry=registry,
        )
        self.score = Histogram(
            "plumbline_score",
            "Calibrated probability of each rule's folded score.",
            ("model", "concept", "scope"),
            buckets=PROBABILITY_BUCKETS,
            registry=registry,
        )
        self.detections = Counter(
            "plumbline_detections", "Rules that tripped.", ("detector", "mode", "action"), registry=registry
        )
        self.time_to_verdict = Histogram(
            "plumbline_time_to_verdict_seconds",
            "From the request's arrival to its verdict.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.unscored = Counter(
            "plumbline_unscored",
            "Choices with tokens that could not be scored, by reason and by what the policy then does.",
            ("reason", "fail_mode"),
            registry=registry,
        )
        self.frames_dropped = Counter(
            "plumbline_frames_dropped",
            "Score frames, or parts of them, that were lost or could not be used.",
            ("reason",),
            registry=registry,
        )
        self.tokens_scored = Counter(
            "plumbline_tokens_scored", "Prompt and response tokens that have a score.", registry=registry
        )
        self.tokens_released = Counter(
            "plumbline_tokens_released",
            "Response tokens that were released, and the prompt tokens that they rest on.",
            registry=registry,
        )
        self.steering_applied = Counter(
            "plumbline_steering_applied", "Steerings applied.", ("direction", "operator"), registry=registry
        )
        self.policy_reload = Counter(
            "plumbline_policy_reload", "Loads of the policy file.", ("result",), registry=registry
        )
        self.policy_loaded = Gauge(
            "plumbline_policy_loaded_timestamp_seconds", "When the policies in force were loaded.", registry=registry
        )
        self.bundle = Gauge(
            "plumbline_bundle_info",
            "The bundle in use; always 1.",
            ("name", "version", "digest", "model"),
            registry=registry,
        )
        self.in_flight = Gauge("plumbline_requests_in_flight", "Requests being answered.", registry=registry)
        self.taps_alive = Gauge("plumbline_taps_alive", "1 while the engine's taps are alive.", registry=registry)
        self.engine_untested = Gauge(
            "plumbline_engine_untested", "1 if the engine runs in a way that no parity test covers.", registry=registry
        )

    def watch_engine(self, alive: Callable[[], bool], untested: Callable[[], bool]) -> None:
        """Read the taps' liveness, and whether the engine is tested, whenever metrics are scraped."""
        self.taps_alive.set_function(lambda: float(alive()))
        self.engine_untested.set_function(lambda: float(untested()))

    def dropped(self, reason: str, count: int) -> None:
        """Count frames that were lost or could not be used."""
        self.frames_dropped.labels(reason).inc(count)

    def reloaded(self, result: str, loaded: float) -> None:
        """Count a load of the policy file."""
        self.policy_reload.labels(result).inc()
        self.policy_loaded.set(loaded)

    def show_bundle(self, manifest: Manifest, digest: str) -> None:
        """Say which bundle is in use."""
        self.bundle.labels(manifest.name, manifest.version, digest[:12], manifest.model.name).set(1)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
