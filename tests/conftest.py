"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# No timed tests: a machine that does other things as well must not make an example fail.
settings.register_profile("plumbline", deadline=None)
settings.load_profile("plumbline")
