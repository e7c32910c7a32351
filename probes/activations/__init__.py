"""Activations on disk: what is collected, and the shards that hold it.

    job      token sequences, the positions of each that are kept, and the layers; cut into chunks of bounded size
    shards   the files: written whole or not at all, and read in batches of bounded size

Written by :mod:`probes.train` through transformers and by :mod:`monitor.engine` through vLLM, alike.
"""
