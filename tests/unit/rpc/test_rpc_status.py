from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rpc_fakes import make_error, make_verdict, request_errors

from monitor import errors
from monitor.rpc.client import explain, may_pass
from monitor.rpc.convert import verdict_from_proto
from monitor.rpc.status import error_info, status_code
from monitor.v1 import guard_pb2, verdict_pb2

ASK = guard_pb2.CheckRequest(messages=[guard_pb2.Message(role="user", content="hello")])
GENERATE = guard_pb2.GenerateRequest(prompt="hello")
ANSWERED = (errors.BlockedError,)  # a verdict, not an error


@pytest.mark.parametrize("cls", request_errors())
def test_every_request_error_declares_a_status_of_its_own(cls):
    assert "grpc_status" in vars(cls), f"{cls.__name__} must say its gRPC status"
    assert "code" in vars(cls), f"{cls.__name__} must say its code"
    assert status_code(make_error(cls)) in grpc.StatusCode
    assert status_code(make_error(cls)) not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)
    row = next((row for row in errors.__doc__.splitlines() if f" {cls.__name__} " in row), "")
    assert cls.grpc_status in row or "on gRPC" in row or "its own" in row, "the table in monitor.errors is stale"


@pytest.mark.parametrize("cls", [cls for cls in request_errors() if cls not in ANSWERED])
@pytest.mark.parametrize("method", ["check", "generate"])
async def test_every_request_error_reaches_the_caller_with_its_code(house, failure, cls, method):
    house.guard.script = [make_error(cls)]
    call = house.guarding.Check(ASK) if method == "check" else house.guarding.Generate(GENERATE)
    error = await failure(call)
    info = error_info(error)
    assert error.code() is grpc.StatusCode[cls.grpc_status]
    assert error.details() == "what came and what was wanted"
    assert (info.domain, info.reason, info.metadata["code"]) == ("plumbline", cls.code.upper(), cls.code)


async def test_an_unscored_request_carries_its_verdict(house, failure):
    house.guard.script = [make_error(errors.UnscoredError)]
    error = await failure(house.guarding.Generate(GENERATE))
    info, verdict = rpc_status.from_call(error).details
    assert info.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    message = verdict_pb2.Verdict()
    assert verdict.Unpack(message)
    assert verdict_from_proto(message) == make_verdict()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (404, grpc.StatusCode.NOT_FOUND),
        (422, grpc.StatusCode.INVALID_ARGUMENT),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (499, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_the_engines_own_refusals_keep_their_meaning(status, code):
    assert status_code(errors.EngineRefusedError("no", status, {})) is code


@pytest.mark.parametrize("method", ["check", "generate"])
async def test_a_defect_is_told_as_an_id_and_logged_in_full(house, failure, caplog, method):
    house.guard.script = [ZeroDivisionError("secret of the house")]
    call = house.guarding.Check(ASK) if method == "check" else house.guarding.Generate(GENERATE)
    error = await failure(call)
    error_id = error_info(error).metadata["error_id"]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error_id in error.details()
    assert "secret" not in error.details()
    assert "secret" not in str(error.trailing_metadata())
    assert error_id in caplog.text
    assert "secret of the house" in caplog.text


async def test_people_are_told_what_to_do(house, failure):
    house.guard.script = [make_error(errors.InvalidRequestError)]
    refused = await failure(house.guarding.Check(ASK))
    assert explain(refused, house.address) == "what came and what was wanted (INVALID_ARGUMENT)"
    assert not may_pass(refused)

    house.guard.script = [house.guard.WAIT]
    late = await failure(house.guarding.Check(ASK, timeout=0.1))
    assert "no answer" in explain(late, house.address)
    assert not may_pass(late)

    await house.server.stop(0)
    away = await failure(house.guarding.Check(ASK))
    assert "start it with `plumbline serve" in explain(away, house.address)
    assert may_pass(away)
