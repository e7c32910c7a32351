"""What a caller may ask of the guard: the ``guard`` object of a request, checked field by field."""

from __future__ import annotations

import msgspec

from monitor.errors import InvalidRequestError
from monitor.types import Mode, Steering


class GuardOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A caller's wishes; they can only tighten what the policy demands.

    Attributes:
        policy: name of a policy; None for the default one.
        mode: ``enforce`` is always allowed; ``observe`` only where the policy observes anyway.
        probes: further probes to score and flag.
        steering: applied from the first token on, within the policy's ``callers.may_steer``.
        token_scores: include the score of every token in the answer.
    """

    policy: str | None = None
    mode: Mode | None = None
    probes: tuple[str, ...] = ()
    steering: tuple[Steering, ...] = ()
    token_scores: bool = False

    @classmethod
    def parse(cls, value: object) -> GuardOptions:
        """Check a decoded JSON value.

        Raises:
            InvalidRequestError: naming the field, what came and what is wanted.
        """
        if value is None:
            return cls()
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            fields = ", ".join(cls.__struct_fields__)
            raise InvalidRequestError(f"guard: {error}; its fields are {fields}") from error
