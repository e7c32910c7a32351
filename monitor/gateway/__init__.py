"""The OpenAI-compatible HTTP interface: routes, bodies, server-sent events, errors."""
