"""``python -m probes.organism``."""

from probes.organism.cli import app

app()
