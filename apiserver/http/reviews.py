"""Tokens and reviews over HTTP: what is posted is answered, and nothing is stored.

The rows here are part of the tables in `subresources`. kubectl 1.27 asks who it is under v1beta1: the same kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import orjson

from apiserver import codec, errors, issuing, reviews
from apiserver.access import Access
from apiserver.authentication.accounts import Refused
from apiserver.http.exchange import Answer, Reply, Request, json_answer
from apiserver.http.routes import Route
from apiserver.http.wire import dry_run, field_validation, method_not_allowed
from apiserver.pipeline import Obj, Target
from apiserver.schema import GVK

Asked = tuple[Obj, tuple[str, ...]]
Creation = Callable[[Route, Request], Awaitable[Reply]]
_BETA = GVK("authentication.k8s.io", "v1beta1", "SelfSubjectReview")


@dataclass(frozen=True, slots=True)
class Reviews:
    access: Access

    def creations(self) -> Mapping[tuple[str, str, str], Creation]:
        return {
            ("authentication.k8s.io", "v1", "tokenreviews"): self.token,
            ("authentication.k8s.io", "v1", "selfsubjectreviews"): self.self_subject,
            ("authentication.k8s.io", "v1beta1", "selfsubjectreviews"): self.self_subject,
            ("authorization.k8s.io", "v1", "selfsubjectrulesreviews"): self.rules,
            ("authorization.k8s.io", "v1", "subjectaccessreviews"): self.access_to(reviews.SUBJECT_ACCESS),
            ("authorization.k8s.io", "v1", "localsubjectaccessreviews"): self.access_to(reviews.LOCAL_SUBJECT_ACCESS),
            ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"): self.access_to(reviews.SELF_SUBJECT_ACCESS),
        }

    async def issue(self, target: Target, request: Request) -> Reply:
        """POST serviceaccounts/NAME/token."""
        if request.method != "POST":
            raise method_not_allowed(target.resource, request)
        asked, warnings = await _body(request, issuing.TOKEN_REQUEST)
        issuing.named_as_addressed(asked, target.namespace, target.name)
        signer = (await self.access.keys.loaded()).signer
        issue, sign = self.access.issuer.issue, _nothing if target.dry_run else signer.sign
        try:
            issued = issue(target.namespace, target.name, asked, sign)
        except errors.StatusError as error:
            if error.code != 404:
                raise
            await self.access.authenticator.tokens.catch_up()  # another server may have made it a moment ago
            issued = issue(target.namespace, target.name, asked, sign)
        return json_answer(issued.body, 201, (*warnings, *issued.warnings))

    async def token(self, route: Route, request: Request) -> Reply:
        asked, warnings = await _posted(route, request, reviews.TOKEN_REVIEW)
        token, audiences = reviews.token_of(asked)
        try:
            known = await self.access.authenticator.tokens.who(token, audiences)
        except Refused as refused:
            return json_answer(reviews.token(asked, None, str(refused)), 201, warnings)
        return json_answer(reviews.token(asked, known, ""), 201, warnings)

    async def self_subject(self, route: Route, request: Request) -> Reply:
        if route.version == _BETA.version:  # unknown to the schema table; nothing in the body is a question
            _check_place(route, request)
            await request.body()
            asked: Obj = {"kind": _BETA.kind, "apiVersion": _BETA.api_version, "metadata": {}}
            return json_answer(reviews.self_subject(asked, request.user), 201)
        asked, warnings = await _posted(route, request, reviews.SELF_SUBJECT_REVIEW)
        return json_answer(reviews.self_subject(asked, request.user), 201, warnings)

    async def rules(self, route: Route, request: Request) -> Reply:
        asked, warnings = await _posted(route, request, reviews.SELF_SUBJECT_RULES)
        return json_answer(reviews.rules(asked, self.access.authorizer, request.user), 201, warnings)

    def access_to(self, gvk: GVK) -> Creation:
        namespaced = gvk == reviews.LOCAL_SUBJECT_ACCESS

        async def review(route: Route, request: Request) -> Reply:
            asked, warnings = await _posted(route, request, gvk, namespaced=namespaced)
            found = reviews.access(asked, gvk, self.access.authorizer, request.user, route.namespace or "")
            return json_answer(found, 201, warnings)

        return review

    async def document(self, path: str, request: Request) -> Answer | None:
        """How others check our tokens."""
        if path not in ("/.well-known/openid-configuration", "/openid/v1/jwks"):
            return None
        cached = {"Cache-Control": "public, max-age=3600"}
        ring = (await self.access.keys.loaded()).ring
        if path == "/openid/v1/jwks":
            return Answer(200, orjson.dumps(ring.jwks()), "application/jwk-set+json", cached)
        found = self.access.openid(request.headers.get("Host", ""), ring.algorithms())
        return Answer(200, orjson.dumps(found), headers=cached)


def _nothing(_claims: object) -> str:
    """A dry run's signature."""
    return ""


async def _posted(route: Route, request: Request, gvk: GVK, *, namespaced: bool = False) -> Asked:
    _check_place(route, request, namespaced=namespaced)
    return await _body(request, gvk)


def _check_place(route: Route, request: Request, *, namespaced: bool = False) -> None:
    if route.name or (route.namespace is not None) != namespaced:
        raise errors.unknown_path()
    if request.method != "POST":
        raise errors.method_not_allowed(route.group, route.plural, request.method.lower())
    dry_run(request)  # nothing is stored either way, but nonsense is refused


async def _body(request: Request, gvk: GVK) -> Asked:
    decoded = codec.decode_body(
        await request.body(), request.headers.get("Content-Type"), gvk, field_validation(request)
    )
    return decoded.obj, decoded.warnings
