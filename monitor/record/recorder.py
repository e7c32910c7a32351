"""One call for each verdict: metrics, watchers, one line of log. Never any text of a prompt or a response.

Runs in: the monitor, one event loop.
"""

from __future__ import annotations

import logging

import msgspec

from monitor.fanout import Fanout, Subscription
from monitor.record.metrics import Metrics
from monitor.types import FailMode, Steering, Verdict
from probes.types import Manifest

_log = logging.getLogger("plumbline.verdict")


class Recorder:
    """Tells everybody what was decided; names from the bundle become labels."""

    def __init__(self, metrics: Metrics, manifest: Manifest) -> None:
        self._metrics = metrics
        self._manifest = manifest
        self._verdicts: Fanout[Verdict] = Fanout(lambda: metrics.dropped("slow_verdict_watcher", 1))

    def subscribe_verdicts(self, size: int = 1024) -> Subscription[Verdict]:
        """Watch all verdicts; a slow watcher loses the oldest, counted in ``dropped``."""
        return self._verdicts.subscribe(size)

    def began(self) -> None:
        """A request was admitted."""
        self._metrics.in_flight.inc()

    def ended(self) -> None:
        """A request is done, its verdicts recorded."""
        self._metrics.in_flight.dec()

    def refused(self, code: str) -> None:
        """A request was answered with an error of this code."""
        self._metrics.refused.labels(code).inc()

    def record(
        self, verdict: Verdict, steered: tuple[Steering, ...], *, released: int, seconds: float, blocks: bool
    ) -> None:
        """Tell everybody about one verdict.

        Args:
            verdict: what was decided.
            steered: every steering that was applied, from the start or by a rule.
            released: response tokens that went out.
            seconds: from the request's arrival to the verdict.
            blocks: whether the policy blocks what is unscored.
        """
        self._count(verdict, released, seconds, FailMode.BLOCK if blocks else FailMode.ALLOW)
        for steering in steered:
            name, _, _ = steering.direction.partition("@")  # a loaded one's digest makes a new label with each file
            self._metrics.steering_applied.labels(name, steering.operator).inc()
        self._verdicts.publish(verdict)
        line = {"event": "verdict", "released": released, "seconds": round(seconds, 4), "verdict": verdict}
        _log.info("%s", msgspec.json.encode(line).decode())

    def _count(self, verdict: Verdict, released: int, seconds: float, fail_mode: FailMode) -> None:
        metrics, model = self._metrics, self._manifest.model.name
        phase = "response" if verdict.n_completion else "prompt"
        metrics.requests.labels(model, phase, verdict.action, verdict.mode, verdict.status).inc()
        metrics.time_to_verdict.observe(seconds)
        metrics.tokens_scored.inc(verdict.tokens_scored)
        metrics.tokens_released.inc(verdict.n_prompt + released if released else 0)
        for reason in verdict.unscored:
            metrics.unscored.labels(reason, fail_mode).inc()
        for detection in verdict.detections:
            if detection.tripped:
                metrics.detections.labels(detection.rule, verdict.mode, detection.action).inc()
            probe = self._manifest.probe(detection.probe)
            if probe is not None and detection.probability is not None:
                metrics.score.labels(model, detection.concept, probe.scope).observe(detection.probability)
