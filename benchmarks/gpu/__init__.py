"""Parity and cost on an NVIDIA GPU."""
