import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.errors import UpstreamError
from monitor.sse import SseParser

payloads = st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b"\n" not in b and b"\r" not in b), max_size=6)


def fed(data, cuts):
    parser, events, start = SseParser(10_000), [], 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        events += parser.feed(data[start:cut])
        start = cut
    return events


@given(events=payloads, cuts=st.lists(st.integers(0, 10_000), max_size=20), crlf=st.booleans(), noise=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_chunking_gives_the_same_events(events, cuts, crlf, noise):
    end = b"\r\n" if crlf else b"\n"
    other = b": keep-alive" + end + b"event: x" + end if noise else b""
    data = b"".join(other + b"data: " + event + end + end for event in events)
    assert fed(data, cuts) == [event.removesuffix(b"\r") for event in events] == fed(data, [])


def test_data_lines_are_joined_and_blank_lines_are_no_events():
    assert SseParser(100).feed(b"\n\ndata: a\ndata:b\n\n\n: c\n\ndata: d") == [b"a\nb"]


@pytest.mark.parametrize("pieces", [[b"data: " + b"x" * 200], [b"data: x\n"] * 200, [b"x"] * 200])
def test_events_have_a_limit(pieces):
    parser = SseParser(100)
    with pytest.raises(UpstreamError, match="100 bytes"):
        for piece in pieces:
            parser.feed(piece)
