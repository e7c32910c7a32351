"""The closed sets of ``monitor.types`` beside their wire numbers, both ways.

A member of one side without a partner on the other is found by the tests, not at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from monitor.types import Action, Mode, Operator, Status, SteeringScope, UnscoredReason
from monitor.v1 import verdict_pb2 as pb

Noun = TypeVar("Noun", bound=StrEnum)
Number = TypeVar("Number", bound=int)


class EnumPairs(Generic[Noun, Number]):
    """One enum and its wire numbers; number 0 ("unspecified") has no noun."""

    def __init__(self, name: str, numbers: Mapping[Noun, Number]) -> None:
        """Store the pairs; ``name`` is for messages."""
        self._name = name
        self._numbers = dict(numbers)
        self._nouns = {number: noun for noun, number in numbers.items()}

    def to_proto(self, noun: Noun) -> Number:
        """The wire number of a noun."""
        return self._numbers[noun]

    def from_proto(self, number: Number) -> Noun | None:
        """The noun of a wire number; None for "unspecified" and for numbers of later versions."""
        return self._nouns.get(number)

    def known(self, number: Number) -> Noun:
        """The noun of a wire number that must be known.

        Raises:
            ValueError: it is not; the server is newer than this client.
        """
        noun = self.from_proto(number)
        if noun is None:
            raise ValueError(f"{self._name} {number} is unknown here; use a client as new as the server")
        return noun


STATUSES = EnumPairs(
    "status",
    {
        Status.PASSED: pb.STATUS_PASSED,
        Status.TRIPPED: pb.STATUS_TRIPPED,
        Status.UNSCORED: pb.STATUS_UNSCORED,
    },
)
ACTIONS = EnumPairs(
    "action",
    {
        Action.ALLOW: pb.ACTION_ALLOW,
        Action.FLAG: pb.ACTION_FLAG,
        Action.STEER: pb.ACTION_STEER,
        Action.REPLACE: pb.ACTION_REPLACE,
        Action.STOP: pb.ACTION_STOP,
    },
)
MODES = EnumPairs("mode", {Mode.ENFORCE: pb.MODE_ENFORCE, Mode.OBSERVE: pb.MODE_OBSERVE})
OPERATORS = EnumPairs(
    "operator",
    {
        Operator.ADD: pb.OPERATOR_ADD,
        Operator.CLAMP: pb.OPERATOR_CLAMP,
        Operator.ABLATE: pb.OPERATOR_ABLATE,
        Operator.ABLATE_OUTPUT: pb.OPERATOR_ABLATE_OUTPUT,
    },
)
STEERING_SCOPES = EnumPairs(
    "steering scope",
    {
        SteeringScope.ALL: pb.STEERING_SCOPE_ALL,
        SteeringScope.PROMPT: pb.STEERING_SCOPE_PROMPT,
        SteeringScope.RESPONSE: pb.STEERING_SCOPE_RESPONSE,
    },
)
UNSCORED_REASONS = EnumPairs(
    "unscored reason",
    {
        UnscoredReason.TAPS_SILENT: pb.UNSCORED_REASON_TAPS_SILENT,
        UnscoredReason.ENGINE_RESTART: pb.UNSCORED_REASON_ENGINE_RESTART,
        UnscoredReason.FRAME_TIMEOUT: pb.UNSCORED_REASON_FRAME_TIMEOUT,
        UnscoredReason.NAN: pb.UNSCORED_REASON_NAN,
        UnscoredReason.CACHE_MISS: pb.UNSCORED_REASON_CACHE_MISS,
        UnscoredReason.FINAL: pb.UNSCORED_REASON_FINAL,
    },
)
