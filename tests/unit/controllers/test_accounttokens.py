"""Secrets with a ServiceAccount's token: what is lacking in them, and when the token is replaced."""

import base64
import json

from controllers.accounttokens import LOOK_AGAIN, lacking, life_left
from kube.core import Secret


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def token(issued: int, expires: int) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": issued, "exp": expires}).encode()).rstrip(b"=").decode()
    return text(f"head.{claims}.signature")


def test_what_is_lacking() -> None:
    assert lacking(Secret(), "n", "PEM") == {"namespace": "n", "ca.crt": "PEM"}
    assert lacking(Secret(), "n", "") == {"namespace": "n"}
    secret = Secret(data={"namespace": text("n"), "ca.crt": text("old"), "other": text("kept")})
    assert lacking(secret, "n", "PEM") == {"ca.crt": "PEM"}
    assert lacking(secret, "n", "old") == {}


def test_a_token_is_replaced_in_time() -> None:
    assert life_left("", 0) == 0
    assert life_left(token(1000, 2000), 1000) == 800
    assert life_left(token(1000, 2000), 1900) < 0


def test_what_somebody_put_there_stays() -> None:
    for other in ("%", text("opaque"), text("a.b.c"), text("a.e30.c")):
        assert life_left(other, 0) == LOOK_AGAIN
