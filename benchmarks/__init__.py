"""Measurements; each script writes its rows to results/."""
