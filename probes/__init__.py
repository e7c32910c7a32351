"""Which number does an activation get, and how was that established?

``probes`` trains linear probes and steering directions, writes them into a bundle that is bound to one
model, and holds the two pieces of arithmetic that the engine shares with offline evaluation:
:mod:`probes.linear` (token scores) and :mod:`probes.fold` (streaming aggregation).
"""
