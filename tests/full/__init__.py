"""Proofs that are too large for ``make test``; ``python -m tests.full.run`` runs them, in shards and resumable."""
