"""Every error that ``monitor`` raises on purpose, each with one HTTP and one gRPC status.

    PlumblineError                      from probes.errors
    ├── ConfigError                     start-up: a setting, file or environment that cannot work
    ├── EngineSetupError                start-up, in the engine: this engine cannot be instrumented
    ├── EngineExitedError               the engine's process ended on its own
    ├── FrameError                      a score frame that cannot be decoded
    ├── PlanError                       a gate plan that is forged, expired, for another bundle, or with unknown names
    └── RequestError                    answered to the caller
        ├── InvalidRequestError         400  INVALID_ARGUMENT     unknown policy, probe, direction, field
        ├── LoosensPolicyError          403  PERMISSION_DENIED    guard fields that would weaken the policy
        ├── TooLargeError               413  RESOURCE_EXHAUSTED   body over the limit
        ├── BlockedError                400  (a verdict, not an error, on gRPC)  tripped before the first token
        ├── DirectionsError             503  UNAVAILABLE          a loaded direction that the policy needs is unusable
        ├── UnscoredError               503  UNAVAILABLE          could not be scored and the policy says block
        ├── EngineRefusedError          its own  (by its status)   the engine refused the request; passed on unchanged
        └── UpstreamError               502  UNAVAILABLE          the engine failed, or is down

Messages say what came, what was wanted and what to do.
"""

from __future__ import annotations

from typing import ClassVar

from monitor.types import Verdict
from probes.errors import PlumblineError

__all__ = [
    "BlockedError",
    "ConfigError",
    "DirectionsError",
    "EngineExitedError",
    "EngineRefusedError",
    "EngineSetupError",
    "FrameError",
    "InvalidRequestError",
    "LoosensPolicyError",
    "PlanError",
    "PlumblineError",
    "RequestError",
    "TooLargeError",
    "UnscoredError",
    "UpstreamError",
]


class ConfigError(PlumblineError):
    """A setting, a file or an environment that cannot work."""


class EngineSetupError(PlumblineError):
    """This engine cannot be instrumented; raised at start-up so that it never serves unscored."""


class EngineExitedError(PlumblineError):
    """The engine's process ended on its own, or could not be started."""


class FrameError(PlumblineError):
    """A score frame that cannot be decoded."""


class PlanError(PlumblineError):
    """A gate plan with a bad signature, expired, for another bundle, or naming a direction that is not there."""


class RequestError(PlumblineError):
    """Something answered to the caller.

    Attributes:
        http_status: status of the HTTP answer.
        grpc_status: name of the gRPC status code.
        code: OpenAI-style error code, stable, for programs.
    """

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "internal_error"


class InvalidRequestError(RequestError):
    """The request names something unknown or has a field that makes no sense."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    code = "invalid_guard_request"


class LoosensPolicyError(RequestError):
    """Guard fields that would weaken what the policy demands."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    code = "guard_loosens_policy"


class TooLargeError(RequestError):
    """A body over the configured limit."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"
    code = "request_too_large"


class BlockedError(RequestError):
    """A rule tripped before the first token and the policy says stop.

    Attributes:
        verdict: what tripped, and where.
    """

    http_status = 400
    grpc_status = "FAILED_PRECONDITION"
    code = "content_filter"

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


class DirectionsError(RequestError):
    """A loaded direction with which the policy itself steers is gone, altered, or no longer fits the policy."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    code = "directions_unusable"


class UnscoredError(RequestError):
    """The request could not be scored and the policy says that unscored requests are blocked.

    Attributes:
        verdict: with the reasons in ``verdict.unscored``.
    """

    http_status = 503
    grpc_status = "UNAVAILABLE"
    code = "guard_unscored"

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


class EngineRefusedError(RequestError):
    """The engine refused the request with a 4xx of its own, which is passed on unchanged.

    Attributes:
        status: the engine's HTTP status.
        body: the engine's answer, decoded JSON (or its text).
    """

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    code = "engine_refused"

    def __init__(self, message: str, status: int, body: object) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class UpstreamError(RequestError):
    """The engine could not be reached, or answered with a server error."""

    http_status = 502
    grpc_status = "UNAVAILABLE"
    code = "engine_unavailable"
