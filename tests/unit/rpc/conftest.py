from __future__ import annotations

from dataclasses import dataclass, field

import grpc
import pytest
from grpc import aio
from rpc_fakes import FakeGuard, FakeReceiver, FakeRecorder

from monitor.rpc.server import GrpcServer, start_grpc
from monitor.v1.guard_pb2_grpc import GuardServiceStub
from monitor.v1.monitor_pb2_grpc import MonitorServiceStub


@dataclass
class House:
    """A real server on a loopback port, a real channel to it, and the fakes behind it."""

    guard: FakeGuard = field(default_factory=FakeGuard)
    receiver: FakeReceiver = field(default_factory=FakeReceiver)
    recorder: FakeRecorder = field(default_factory=FakeRecorder)
    ready: bool = True
    server: GrpcServer | None = None
    channel: aio.Channel | None = None

    async def start(self, **options):
        options = {"port": 0, "ready": lambda: self.ready} | options
        self.server = await start_grpc(self.guard, self.receiver, self.recorder, **options)
        self.channel = aio.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])

    async def stop(self):
        await self.channel.close()
        await self.server.stop(grace=0)

    @property
    def address(self):
        return f"127.0.0.1:{self.server.port}"

    @property
    def guarding(self):
        return GuardServiceStub(self.channel)

    @property
    def monitoring(self):
        return MonitorServiceStub(self.channel)


@pytest.fixture
async def house():
    house = House()
    await house.start()
    yield house
    await house.stop()


@pytest.fixture
def failure():
    """Await a call that must fail; gives its error."""

    async def run(call) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
        return caught.value

    return run
