"""gRPC: the services of ``monitor.v1`` beside health and reflection; the only importer of grpc.

One call's path: ``server`` (with ``readiness`` and ``shutdown``) → ``guard_service`` or ``monitor_service`` →
``convert`` (messages to nouns) → the guard, or a subscription → ``convert`` (nouns to messages). An
exception leaves through ``status``. ``client`` is the other end, used by ``plumbline check`` and
``plumbline watch``.
"""
