"""Whose activation is it, what do we do, who is told?

``monitor`` instruments a vLLM engine (:mod:`monitor.engine`), compiles policies to gate plans
(:mod:`monitor.policy`), follows each request from plan to verdict (:mod:`monitor.guard`) and tells
everybody: HTTP (:mod:`monitor.gateway`), gRPC (:mod:`monitor.rpc`), metrics (:mod:`monitor.record`).
"""
