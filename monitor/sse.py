"""Server-sent events, incrementally, from any network chunking.

Source: WHATWG HTML, "Server-sent events", of which OpenAI-style servers use ``data`` lines and comments.
"""

from __future__ import annotations

from monitor.errors import UpstreamError

DONE = b"[DONE]"


class SseParser:
    """Bytes in, complete ``data`` payloads out.

    Lines end in LF or CRLF. An event ends at an empty line; its ``data`` lines are joined by LF; comments
    and other fields are skipped.
    """

    def __init__(self, max_event: int) -> None:
        self._max_event = max_event
        self._line: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []  # data lines of an event that has not ended
        self._size = 0  # bytes in them

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that ``chunk`` completes.

        Raises:
            UpstreamError: an event is larger than ``max_event`` bytes.
        """
        events = []
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            content = b"".join((*self._line, line)).removesuffix(b"\r")
            self._line.clear()
            if content.startswith(b"data:"):
                self._data.append(content[5:].removeprefix(b" "))
            elif not content:
                if self._data:
                    events.append(b"\n".join(self._data))
                self._data.clear()
        if rest:
            self._line.append(rest)
        self._size = len(rest) if lines else self._size + len(rest)
        if self._size + sum(map(len, self._data)) > self._max_event:
            raise UpstreamError(f"the engine sent an event of more than {self._max_event} bytes (PLUMBLINE_MAX_EVENT)")
        return events
