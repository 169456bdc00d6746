"""What many objects have alike is kept once, and no object is changed by it."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from apiserver.managed.sharing import Sharing
from tests.unit.apiserver.calls import serving

PODS = "/api/v1/namespaces/default/pods"


async def test_pods_of_one_kind_share_their_owners() -> None:
    env = [{"name": f"E{number}", "value": "1"} for number in range(20)]
    spec = {"containers": [{"name": "a", "image": "a:1", "env": env}]}
    sharing, many = Sharing(), []
    async with serving() as calls:
        for number in range(3):
            await calls.post(f"{PODS}?fieldManager=one", {"metadata": {"name": f"p{number}"}, "spec": spec})
            conditions = [
                {"type": name, "status": "True"} for name in ("Ready", "Initialized", "PodScheduled", "Other")
            ]
            await calls.patch(f"{PODS}/p{number}/status?fieldManager=kubelet", {"status": {"conditions": conditions}})
            body = orjson.dumps((await calls.get(f"{PODS}/p{number}")).json)
            pieces = sharing.pieces(body)
            assert b"".join(pieces) == body
            many.append(pieces)
    first, _, third = many
    assert len(first) == 5
    assert first[1] is third[1]
    assert first[3] is third[3]
    assert max(map(len, first[1::2])) > 800


@given(
    st.lists(
        st.sampled_from([b'"fieldsV1":{', b'"f:a":{}', b"}", b"}]", b'},{"manager"', b"x" * 210, b',"subresource":'])
    )
)
def test_whatever_the_bytes_are_they_come_back(parts: list[bytes]) -> None:
    body = b"".join(parts)
    assert b"".join(Sharing(2).pieces(body)) == body


def test_copies_are_bounded() -> None:
    sharing = Sharing(2)
    bodies = [b'{"fieldsV1":{"%b":{}}}]' % (b"%d" % number * 210) for number in range(5)]
    kept = [sharing.pieces(body)[1] for body in bodies]
    assert sharing.pieces(bodies[4])[1] is kept[4]
    assert sharing.pieces(bodies[0])[1] is not kept[0]
