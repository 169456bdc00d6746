"""ServiceAccount tokens: signed, believed, bound, refused."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from apiserver.authentication import User, accounts, jwt, keys
from apiserver.authentication.accounts import Grant, Life, Ref, Refused
from apiserver.authentication.request import bearer
from apiserver.authentication.tokens import Tokens
from apiserver.cache import Entry
from apiserver.errors import StatusError
from apiserver.issuing import EXTENDED, WARN_ONLY, Issuer, named_as_addressed
from kube import certificates

ISSUER = "https://kubernetes.default.svc.cluster.local"
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: list[keys.PrivateKey] = [
    RSA,
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
]
SIGNERS = [keys.Signer.of(one) for one in PRIVATE]
NOW = 1_700_000_000.0
PEM, PUBLIC = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


def private_pem(key: Any, form: serialization.PrivateFormat, password: bytes = b"") -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(PEM, form, lock))


@pytest.mark.parametrize("signer", SIGNERS, ids=lambda one: one.key.algorithm)
def test_what_is_signed_is_believed_and_nothing_else(signer: keys.Signer) -> None:
    ring = keys.Ring(tuple(one.key for one in SIGNERS))
    token = signer.sign({"iss": "i", "a": 1})
    assert ring.claims(token) == {"iss": "i", "a": 1}
    head, body, signature = token.split(".")
    other = jwt.encoded(b'{"iss":"i","a":2}')
    for forged in (
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.",
        f"{head}.{body}",
    ):
        with pytest.raises(jwt.Unbelievable):
            ring.claims(forged)
    stranger = keys.Signer.of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(jwt.Unbelievable, match="no key of ours"):
        ring.claims(stranger.sign({"iss": "i"}))


def test_the_token_does_not_choose_its_algorithm() -> None:
    key = SIGNERS[0].key
    body = jwt.encoded(b'{"iss":"i"}')
    for algorithm in ("none", "HS256", "ES256", ""):
        head = jwt.encoded(orjson.dumps({"alg": algorithm, "kid": key.kid}))
        with pytest.raises(jwt.Unbelievable):
            keys.Ring((key,)).claims(f"{head}.{body}.{jwt.encoded(b'x' * 64)}")


def test_the_kid_is_the_hash_of_the_public_key() -> None:
    der = RSA.public_key().public_bytes(serialization.Encoding.DER, PUBLIC)
    assert SIGNERS[0].key.kid == jwt.encoded(hashlib.sha256(der).digest())
    token = SIGNERS[0].sign({})
    assert jwt.parse(token).header == {"alg": "RS256", "kid": SIGNERS[0].key.kid}


def test_published_keys_are_the_keys() -> None:
    shown = [signer.key.jwk() for signer in SIGNERS]
    assert [(one["kty"], one["alg"], one.get("crv")) for one in shown] == [
        ("RSA", "RS256", None),
        ("EC", "ES256", "P-256"),
        ("EC", "ES384", "P-384"),
        ("EC", "ES512", "P-521"),
    ]
    assert int.from_bytes(jwt.decoded(shown[0]["n"]), "big") == RSA.public_key().public_numbers().n
    assert [len(jwt.decoded(one["x"])) for one in shown[1:]] == [32, 48, 66]


@given(st.text() | st.binary().map(jwt.encoded).map(lambda one: f"{one}.{one}.{one}"))
def test_nonsense_is_no_token(text: str) -> None:
    with pytest.raises(jwt.Unbelievable):
        keys.Ring((SIGNERS[1].key,)).claims(text)


def test_pem_files_hold_several_keys_of_several_kinds() -> None:
    certificate = certificates.authority("someone")
    pem = b"".join(
        (
            b"a comment\n",
            RSA.public_key().public_bytes(PEM, PUBLIC),
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
            private_pem(PRIVATE[1], serialization.PrivateFormat.TraditionalOpenSSL),
            certificate.certificate,
        )
    )
    found = keys.public_keys(pem)
    assert [one.kid for one in found[:2]] == [SIGNERS[0].key.kid, SIGNERS[1].key.kid]
    assert len(found) == 3
    assert keys.signer(pem).key.kid == SIGNERS[1].key.kid


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "no PEM block"),
        (b"-----BEGIN PRIVATE KEY-----\nabc", "no end"),
        (private_pem(PRIVATE[1], serialization.PrivateFormat.PKCS8, b"secret"), "[Pp]assword"),
        (private_pem(ed25519.Ed25519PrivateKey.generate(), serialization.PrivateFormat.PKCS8), "use RSA or ECDSA"),
        (private_pem(ec.generate_private_key(ec.SECP256K1()), serialization.PrivateFormat.PKCS8), "secp256k1"),
    ],
)
def test_what_is_no_signing_key(pem: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        keys.signer(pem)


@dataclass
class World:
    """ServiceAccount bob in namespace n, pod p of his on node k, secret s."""

    now: float = NOW
    objects: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    later: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    looked: int = 0

    def __post_init__(self) -> None:
        self.put("serviceaccounts", "n", "bob", "u1")
        self.put("pods", "n", "p", "u2", spec={"serviceAccountName": "bob", "nodeName": "k"})
        self.put("nodes", "", "k", "u3")
        self.put("secrets", "n", "s", "u4")

    def put(self, plural: str, namespace: str, name: str, uid: str, **more: Any) -> None:
        metadata = {"name": name, "uid": uid} | more.pop("metadata", {})
        self.objects[plural, namespace, name] = Entry(
            namespace, name, 1, (orjson.dumps({"metadata": metadata, **more}),), {}, {}
        )

    def look(self, plural: str, namespace: str, name: str) -> Entry | None:
        return self.objects.get((plural, namespace, name))

    async def catch_up(self) -> None:
        self.looked += 1
        self.objects |= self.later

    def issuer(self, **more: Any) -> Issuer:
        return Issuer(ISSUER, (ISSUER,), self.look, lambda: self.now, **more)

    def tokens(self, *signers: keys.Signer, audiences: tuple[str, ...] = (ISSUER,)) -> Tokens:
        ring = keys.Ring(tuple(one.key for one in signers or SIGNERS[1:2]))

        async def loaded() -> keys.Ring:
            return ring

        static = {"static-token": User("jane", ("g",))}
        return Tokens(loaded, (ISSUER, "old"), audiences, static, Life(self.look), self.catch_up, lambda: self.now)

    def issue(self, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        issued = self.issuer(**more).issue("n", "bob", {"spec": spec or {}}, SIGNERS[1].sign)
        return {**issued.body, "warnings": issued.warnings}


def bound(kind: str, name: str, **more: str) -> dict[str, Any]:
    return {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name} | more}


def token_of(answer: dict[str, Any]) -> str:
    return str(answer["status"]["token"])


def test_a_token_request_answered() -> None:
    world = World()
    answer = world.issue({"expirationSeconds": 1200})
    assert answer["status"]["expirationTimestamp"] == "2023-11-14T22:33:20Z"
    assert answer["spec"] == {"expirationSeconds": 1200, "audiences": [ISSUER], "boundObjectRef": None}
    claims = jwt.parse(token_of(answer)).claims
    jti = claims.pop("jti")
    assert len(jti) == 36
    assert claims == {
        "aud": [ISSUER],
        "exp": int(NOW) + 1200,
        "iat": int(NOW),
        "iss": ISSUER,
        "kubernetes.io": {"namespace": "n", "serviceaccount": {"name": "bob", "uid": "u1"}},
        "nbf": int(NOW),
        "sub": "system:serviceaccount:n:bob",
    }
    known = asyncio.run(world.tokens().who(token_of(answer)))
    assert known.audiences == (ISSUER,)
    assert known.user == User(
        "system:serviceaccount:n:bob",
        ("system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"),
        "u1",
        (("authentication.kubernetes.io/credential-id", (f"JTI={jti}",)),),
    )


def test_a_pods_token_says_where_it_runs() -> None:
    world = World()
    known = asyncio.run(world.tokens().who(token_of(world.issue(bound("Pod", "p")))))
    extra = {key.rpartition("/")[2]: value for key, value in known.user.extra}
    del extra["credential-id"]
    assert extra == {"node-name": ("k",), "node-uid": ("u3",), "pod-name": ("p",), "pod-uid": ("u2",)}


def test_a_pods_own_token_lives_on_and_says_so() -> None:
    world = World()
    answer = world.issue({"expirationSeconds": WARN_ONLY} | bound("Pod", "p"))
    claims = jwt.parse(token_of(answer)).claims
    assert claims["exp"] == int(NOW) + EXTENDED
    assert claims["kubernetes.io"]["warnafter"] == int(NOW) + WARN_ONLY
    assert answer["status"]["expirationTimestamp"] == "2023-11-14T23:13:27Z"
    tokens = world.tokens()
    asyncio.run(tokens.who(token_of(answer)))
    assert (tokens.valid, tokens.stale) == (1, 0)
    world.now += WARN_ONLY + 1
    asyncio.run(tokens.who(token_of(answer)))
    assert (tokens.valid, tokens.stale) == (2, 1)
    world.now = NOW
    cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({"expirationSeconds": WARN_ONLY} | bound("Pod", "p"), {"extend": False}),
        ({"expirationSeconds": WARN_ONLY}, {}),
        ({"expirationSeconds": WARN_ONLY + 1} | bound("Pod", "p"), {}),
        ({"expirationSeconds": WARN_ONLY, "audiences": ["vault"]} | bound("Pod", "p"), {}),
    )
    for spec, more in cases:
        claims = jwt.parse(token_of(world.issue(spec, **more))).claims
        assert "warnafter" not in claims["kubernetes.io"]
        assert claims["exp"] == int(NOW) + spec["expirationSeconds"]


def test_the_longest_life_is_told() -> None:
    answer = World().issue({"expirationSeconds": 90000}, longest=7200)
    assert answer["warnings"] == ("requested expiration of 90000 seconds shortened to 7200 seconds",)
    assert jwt.parse(token_of(answer)).claims["exp"] == int(NOW) + 7200


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"expirationSeconds": 599}, 422, "may not specify a duration less than 10 minutes"),
        ({"expirationSeconds": (1 << 32) + 1}, 422, "may not specify a duration larger than 2^32 seconds"),
        (bound("Pod", "nope"), 404, 'pods "nope" not found'),
        (bound("Secret", "nope"), 404, 'secrets "nope" not found'),
        (bound("Node", "nope"), 404, 'nodes "nope" not found'),
        (bound("ConfigMap", "c"), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
        (bound("Pod", "p", uid="other"), 409, "does not match the UID in record"),
        (bound("Pod", "theirs"), 400, "cannot bind token for serviceaccount"),
    ],
)
def test_requests_refused(spec: dict[str, Any], code: int, text: str) -> None:
    world = World()
    world.put("pods", "n", "theirs", "u9", spec={"serviceAccountName": "alice"})
    with pytest.raises(StatusError) as refused:
        world.issue(spec)
    assert refused.value.code == code
    assert text in refused.value.message


def test_the_body_names_no_other_account() -> None:
    named_as_addressed({"metadata": {"name": "bob"}}, "n", "bob")
    for metadata in ({"name": "eve"}, {"namespace": "m"}):
        with pytest.raises(StatusError, match="must match the service account"):
            named_as_addressed({"metadata": metadata}, "n", "bob")


@pytest.mark.parametrize(
    ("spec", "gone", "why"),
    [
        ({}, ("serviceaccounts", "n", "bob"), 'serviceaccounts "bob" not found'),
        (bound("Pod", "p"), ("pods", "n", "p"), "invalidated"),
        (bound("Secret", "s"), ("secrets", "n", "s"), "invalidated"),
        (bound("Node", "k"), ("nodes", "", "k"), "invalidated"),
    ],
)
def test_a_token_dies_with_what_it_is_bound_to(spec: dict[str, Any], gone: tuple[str, str, str], why: str) -> None:
    async def scenario() -> None:
        world = World()
        tokens, token = world.tokens(), token_of(world.issue(spec))
        for _ in range(2):
            await tokens.who(token)
        entry = world.objects.pop(gone)
        with pytest.raises(Refused, match=why):
            await tokens.who(token)
        world.put(*gone, uid="made-again")
        with pytest.raises(Refused, match=r"UID \(made-again\) does not match"):
            await tokens.who(token)
        world.objects[gone] = entry
        await tokens.who(token)

    asyncio.run(scenario())


def test_being_deleted_counts_a_minute_later() -> None:
    async def scenario() -> None:
        world = World()
        tokens, token = world.tokens(), token_of(world.issue(bound("Pod", "p")))
        world.put("pods", "n", "p", "u2", metadata={"deletionTimestamp": "2023-11-14T22:13:20Z"})  # NOW
        await tokens.who(token)
        world.now = NOW + 61
        with pytest.raises(Refused, match="pod has been deleted"):
            await tokens.who(token)

    asyncio.run(scenario())


def test_what_another_server_made_is_waited_for() -> None:
    async def scenario() -> None:
        world = World()
        token = token_of(world.issue())
        world.later = {key: world.objects.pop(key) for key in list(world.objects)}
        await world.tokens().who(token)
        assert world.looked == 1

    asyncio.run(scenario())


def test_times_count_at_every_use() -> None:
    async def scenario() -> None:
        world = World()
        tokens, token = world.tokens(), token_of(world.issue({"expirationSeconds": 600}))
        await tokens.who(token)
        world.now = NOW + 659
        await tokens.who(token)
        world.now = NOW + 661
        with pytest.raises(Refused, match="has expired"):
            await tokens.who(token)
        world.now = NOW - 61
        with pytest.raises(Refused, match="not valid yet"):
            await tokens.who(token)

    asyncio.run(scenario())


def test_audiences() -> None:
    async def scenario() -> None:
        world = World()
        tokens, token = world.tokens(), token_of(world.issue({"audiences": ["vault", "db"]}))
        with pytest.raises(Refused, match=r'token audiences \["vault" "db"\] is invalid for the target audiences'):
            await tokens.who(token)
        assert (await tokens.who(token, ("db", "x"))).audiences == ("db",)
        assert (await tokens.who("static-token")).user.name == "jane"

    asyncio.run(scenario())


def test_other_peoples_tokens() -> None:
    async def scenario() -> None:
        world = World()
        tokens = world.tokens()
        grant = Grant("n", Ref("serviceaccounts", "bob", "u1"), (ISSUER,), int(NOW), int(NOW) + 600, "j")
        await tokens.who(SIGNERS[1].sign(grant.claims("old")))  # an issuer of before is still believed
        with pytest.raises(Refused, match=r"^invalid bearer token$"):
            await tokens.who(SIGNERS[1].sign(grant.claims("https://elsewhere")))
        with pytest.raises(Refused, match="no key of ours"):
            await tokens.who(SIGNERS[2].sign(grant.claims(ISSUER)))
        with pytest.raises(Refused, match="invalid bearer token"):
            await tokens.who("abc")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "change",
    [
        {"kubernetes.io": None},
        {"kubernetes.io": {"namespace": "n"}},
        {"kubernetes.io": {"namespace": "", "serviceaccount": {"name": "bob"}}},
        {"kubernetes.io": {"namespace": "n", "serviceaccount": []}},
        {"exp": "soon"},
        {"exp": None},
        {"aud": 5, "sub": "system:serviceaccount:n:eve"},
        {"sub": "system:serviceaccount:n:eve"},
    ],
)
def test_claims_of_another_shape(change: dict[str, Any]) -> None:
    grant = Grant("n", Ref("serviceaccounts", "bob", "u1"), (ISSUER,), int(NOW), int(NOW) + 600, "j")
    assert accounts.grant_of(grant.claims(ISSUER)) == grant
    with pytest.raises(jwt.Unbelievable):
        accounts.grant_of(grant.claims(ISSUER) | change)


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)


@given(
    ANYTHING | st.lists(ANYTHING.map(lambda one: jwt.encoded(one.encode(errors="replace"))), max_size=4).map(".".join)
)
def test_whatever_is_shown_is_refused_in_words(shown: str) -> None:
    async def scenario() -> None:
        with pytest.raises((Refused, StatusError), match=r"^(invalid bearer token|Unauthorized)"):
            await World().tokens().who(bearer({"Authorization": f"Bearer {shown}"}) or "")

    asyncio.run(scenario())
