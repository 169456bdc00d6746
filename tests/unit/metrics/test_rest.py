"""cAdvisor's REST, asked as its clients ask."""

import datetime as dt
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kube import serving
from metrics import rest
from metrics.history import PARTS, Sampler
from metrics.rest import v2
from tests.metrics_world import HOSTILE, MIB, World


class Api:
    def __init__(self, url: str, session: aiohttp.ClientSession, world: World, sampler: Sampler) -> None:
        self.world, self.sampler = world, sampler
        self._url, self._session = url, session

    async def text(self, path: str, body: object = None) -> tuple[int, str]:
        data = None if body is None else json.dumps(body)
        async with self._session.request("POST" if data else "GET", f"{self._url}{path}", data=data) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str, body: object = None) -> Any:
        status, text = await self.text(path, body)
        assert status == 200, text
        return json.loads(text)

    async def sampled(self, moments: int) -> None:
        for _ in range(moments):
            self.sampler.history.add(self.world.read(PARTS))


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    world = World(pods=4)
    sampler = Sampler(world.read, duration=600)
    routes = rest.routes(world.read, sampler)
    async with serving.serve("127.0.0.1", 0, routes, posts=routes) as port, aiohttp.ClientSession() as session:
        yield Api(f"http://127.0.0.1:{port}", session, world, sampler)


async def test_the_machine(api: Api) -> None:
    for path in ("/api/v1.3/machine", "/api/v2.1/machine"):
        found = await api.get(path)
        assert found["num_cores"] == 4
        assert found["memory_capacity"] == 8 << 30
        assert found["filesystems"][0] == {
            "device": "/dev/vda1", "capacity": 40 << 30, "type": "vfs", "inodes": 1000, "has_inodes": True,
        }  # fmt: skip
        assert found["disk_map"]["254:0"]["name"] == "vda"
    attributes = await api.get("/api/v2.1/attributes")
    assert attributes["kernel_version"] == "6.1.0-test"
    assert await api.get("/api/v2.1/version")


async def test_a_container_as_v1_has_it(api: Api) -> None:
    await api.sampled(5)
    path = api.world.paths()[2]
    found = await api.get(f"/api/v1.3/containers{path}")
    assert found["name"] == path
    assert found["namespace"] == "containerd"
    assert found["id"] in found["aliases"]
    spec = found["spec"]
    assert spec["has_cpu"]
    assert spec["has_memory"]
    assert spec["has_diskio"]
    assert spec["image"].startswith("registry.example/")
    assert spec["cpu"]["limit"] == 256
    assert spec["memory"]["limit"] % (32 * MIB) == 0
    stats = found["stats"]
    assert len(stats) == 6  # five kept, and now
    moments = [dt.datetime.fromisoformat(one["timestamp"]) for one in stats]
    assert moments == sorted(moments)
    totals = [one["cpu"]["usage"]["total"] for one in stats]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]
    assert stats[-1]["memory"]["working_set"] < stats[-1]["memory"]["usage"]
    for one in stats:
        first = one["diskio"]["io_service_bytes"][0]
        assert (first["device"], first["major"], first["minor"]) == ("/dev/vda", 254, 0)
        assert first["stats"]["Total"] == first["stats"]["Read"] + first["stats"]["Write"]


async def test_so_many_moments_between_times_by_post(api: Api) -> None:
    await api.sampled(5)
    path = f"/api/v1.3/containers{api.world.paths()[0]}"
    everything = (await api.get(path, {"num_stats": -1}))["stats"]
    assert len(everything) == 6
    assert len((await api.get(path, {"num_stats": 2}))["stats"]) == 2
    cut = await api.get(path, {"num_stats": -1, "start": everything[2]["timestamp"], "end": everything[3]["timestamp"]})
    assert [one["timestamp"] for one in cut["stats"]] == [one["timestamp"] for one in everything[2:4]]
    zero = {"num_stats": 60, "start": "0001-01-01T00:00:00Z", "end": "0001-01-01T00:00:00Z"}  # what the Go client sends
    assert len((await api.get(path, zero))["stats"]) >= 6


async def test_the_tree_below(api: Api) -> None:
    root = await api.get("/api/v1.3/containers/")
    assert root["name"] == "/"
    assert {"name": "/kubepods"} in root["subcontainers"]
    pods = api.world.paths("pod")
    kubepods = await api.get("/api/v1.3/containers/kubepods")
    assert sorted(one["name"] for one in kubepods["subcontainers"]) == sorted(pods)
    below = await api.get(f"/api/v1.1/subcontainers{pods[1]}")
    assert below[0]["name"] == pods[1]
    assert len(below) == 4  # the pod, its sandbox, two containers
    assert below[0]["stats"][0]["network"]["interfaces"][0]["name"] == "eth0"


async def test_of_very_many_groups_an_answer_has_fewer_moments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["metrics.rest.routes"]  # the package's `routes` is the function
    monkeypatch.setattr(module, "_MOST", 60)
    monkeypatch.setattr(module, "_MOST_SUMMED", 60)
    await api.sampled(20)
    below = await api.get("/api/v1.3/subcontainers/", {"num_stats": -1})
    assert {len(one["stats"]) for one in below} == {60 // len(below)}
    alone = await api.get(f"/api/v1.3/containers{api.world.paths()[0]}", {"num_stats": -1})
    assert len(alone["stats"]) == 22  # twenty, the reading of the question before, and now
    assert below[3]["stats"][-1]["timestamp"] > alone["stats"][18]["timestamp"], "the newest"
    assert len(await api.get("/api/v2.1/summary?recursive=true")) == len(below)


async def test_a_name_that_is_no_utf8_hides_nobody(api: Api) -> None:
    paths = {one["name"] for one in await api.get("/api/v1.3/subcontainers/")}
    assert "/system.slice/no-utf8-\udcff" in paths
    assert set(api.world.paths()) <= paths
    found = await api.get("/api/v2.1/stats?recursive=true")
    assert set(found) == paths - {"/"}
    assert found["/system.slice/no-utf8-\udcff"]["stats"]


async def test_docker_by_name_by_id_and_by_the_start_of_it(api: Api) -> None:
    every = await api.get("/api/v1.3/docker/")
    assert len(every) == 3
    by_name = await api.get("/api/v1.3/docker/registry")
    ((path, found),) = by_name.items()
    assert path == found["name"] == f"/docker/{found['id']}"
    assert list(await api.get(f"/api/v1.2/docker/{found['id']}")) == [path]
    assert HOSTILE in [alias for one in every.values() for alias in one["aliases"]]
    status, text = await api.text("/api/v1.3/docker/0000")
    assert (status, "is not unique" in text) == (400, True)
    status, text = await api.text("/api/v1.3/docker/nobody")
    assert (status, text) == (404, 'unable to find Docker container "nobody"\n')


async def test_v2_stats_have_rates_and_leave_the_root_to_machinestats(api: Api) -> None:
    await api.sampled(3)
    found = await api.get("/api/v2.1/stats?recursive=true&count=3")
    assert "/" not in found
    assert len(found) > 10
    one = found[api.world.paths()[0]]
    assert len(one["stats"]) == 3
    assert "cpu_inst" not in one["stats"][0]
    assert one["stats"][-1]["cpu_inst"]["usage"]["total"] > 0
    machine = await api.get("/api/v2.1/machinestats?count=2")
    assert machine[-1]["filesystem"][1]["usage"] > 0
    assert machine[-1]["network"]["interfaces"]
    old = await api.get(f"/api/v2.0/stats{api.world.paths()[0]}?count=1")
    assert next(iter(old.values()))[0]["has_cpu"] is True
    spec = await api.get("/api/v2.1/spec/registry?type=docker")
    assert next(iter(spec.values()))["namespace"] == "docker"
    storage = await api.get("/api/v2.1/storage")
    assert [one["mountpoint"] for one in storage] == ["/", "/var/lib/images"]


async def test_who_polls_gets_a_summary_though_nothing_is_sampled(api: Api) -> None:
    path = api.world.paths()[3]
    await api.get(f"/api/v2.1/summary{path}")
    found = (await api.get(f"/api/v2.1/summary{path}"))[path]
    assert found["minute_usage"]["cpu"]["present"] is True
    assert found["latest_usage"]["memory"] > MIB
    assert found["day_usage"]["percent_complete"] == 0


def test_percentiles_of_a_minute() -> None:
    def row(cpu: int) -> list[int]:
        made = [0] * 40
        made[0], made[8] = cpu, 1000
        return made

    moments = [(1000.0 + n, row(n * n * 1_000_000)) for n in range(62)]  # 1, 3, 5 ... 121 thousandths of a core
    found = v2.summary(moments)
    assert found["latest_usage"] == {"cpu": 121, "memory": 1000}
    assert found["minute_usage"]["percent_complete"] == 98
    assert found["minute_usage"]["cpu"] == {
        "present": True, "mean": 62, "max": 121, "fifty": 63, "ninety": 111, "ninetyfive": 117,
    }  # fmt: skip
    restarted = v2.summary([*moments, (1062.0, row(0))])
    assert restarted["minute_usage"]["cpu"]["max"] == 121, "a counter that starts anew is no rate"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/", None, 400, "Supported API versions: v1.0,v1.1,v1.2,v1.3,v2.0,v2.1"),
        ("/api/v1.3", None, 400, 'Supported request types: "containers,docker,machine,subcontainers"'),
        ("/api/v9.9/machine", None, 404, 'unsupported API version "v9.9"'),
        ("/api/v1.0/docker", None, 404, 'unknown request type "docker"'),
        ("/api/v1.3/containers/no/such", None, 404, 'failed to get container "/no/such" with error: unknown container'),
        ("/api/v1.3/containers/", {"num_stats": "many"}, 400, "num_stats: 'many'"),
        ("/api/v1.3/containers/", {"start": "yesterday"}, 400, "start: 'yesterday' is not a time"),
        ("/api/v1.3/containers/", [1], 400, "unable to decode the json value"),
        ("/api/v2.1/stats?count=few", None, 400, "failed to parse 'count' option: few"),
        ("/api/v2.1/stats?count=-2", None, 400, "only -1 and larger values allowed, not -2"),
        ("/api/v2.1/stats?type=rkt", None, 400, "unknown 'type' \"rkt\""),
        ("/api/v2.1/stats?max_age=soon", None, 400, "failed to parse 'max_age' option: soon"),
    ],
)
async def test_what_is_wrong_is_said(api: Api, path: str, body: object, status: int, words: str) -> None:
    found, text = await api.text(path, body)
    assert found == status
    assert words in text
