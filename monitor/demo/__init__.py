"""The demonstration: the shipped model behind a real engine, and a scripted set of requests."""
