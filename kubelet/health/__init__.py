"""A gRPC health check, without TLS (grpc.health.v1.Health/Check): only SERVING is healthy.

As upstream's (pkg/probe/grpc), a server that refuses the connection is tried again each second until the time is up; the
last reason is added to upstream's words. A module of its own so that protobuf is loaded where somebody uses it.
"""

import asyncio

from google.protobuf.message import DecodeError

from kube.version import MAJOR, MINOR
from kubelet.backoff import spelt
from kubelet.grpc import Channel, GRPCError, Status
from kubelet.health.health_pb2 import HealthCheckRequest, HealthCheckResponse
from kubelet.httpget import address, cause

CHECK = "/grpc.health.v1.Health/Check"
AGAIN = 1.0  # seconds between connections


async def check(host: str, port: int, service: str, timeout: float) -> tuple[bool, str]:
    """Whether the service is healthy, and why not; takes at most `timeout` seconds."""
    where = address(host, port)
    channel = Channel(host, port, agent=f"kube-probe/{MAJOR}.{MINOR}")
    connected, refused = False, ""
    try:
        async with asyncio.timeout(timeout):
            while not connected:
                try:
                    await channel.connect()
                    connected = True
                except OSError as error:
                    refused = f": dial tcp {where}: connect: {cause(error)}"
                    await asyncio.sleep(AGAIN)
            return await _asked(channel, service)
    except TimeoutError:
        if connected:
            return False, f"timeout: health rpc did not complete within {spelt(timeout)}"
        late = "context deadline exceeded"
        return False, f'timeout: failed to connect service "{where}" within {spelt(timeout)}: {late}{refused}'
    finally:
        channel.close()


async def _asked(channel: Channel, service: str) -> tuple[bool, str]:
    try:
        reply = HealthCheckResponse.FromString(
            await channel.ask(CHECK, HealthCheckRequest(service=service).SerializeToString())
        )
    except GRPCError as error:
        said = error.message or error.status.name
        if error.status is Status.UNIMPLEMENTED:
            lacks = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
            return False, f"{lacks}: {said}"
        code = "".join(word.capitalize() for word in error.status.name.split("_"))
        return False, f"error: health rpc probe failed: rpc error: code = {code} desc = {said}"
    except (DecodeError, OSError) as error:
        why = str(error) or type(error).__name__
        return False, f"error: health rpc probe failed: rpc error: code = Unavailable desc = {why}"
    if reply.status == HealthCheckResponse.SERVING:
        return True, "service healthy"
    name = HealthCheckResponse.ServingStatus.Name(reply.status) if 0 <= reply.status <= 3 else str(reply.status)
    return False, f'service unhealthy (responded with "{name}")'
