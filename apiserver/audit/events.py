"""What is known of one request, as upstream's audit Event.

`Record` collects it while the request passes; each stage becomes a line, rendered by the log's thread: bodies are decoded
there, not on the loop. A body that is not JSON (protobuf, YAML) is shown as the JSON it means.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import time
from typing import Any

import orjson

from apiserver import codec
from apiserver.audit.log import Log
from apiserver.audit.policy import Level, Outcome, Policy, outcome
from apiserver.authentication import User
from apiserver.authorization import Attributes, Decision
from apiserver.codec import json, yaml
from apiserver.errors import StatusError
from apiserver.http.ending import Ending
from apiserver.http.exchange import JSON, Answer, Feed, Outlet, Reply, Request, Stream
from apiserver.store import StoreFailed, StoreLost
from apiserver.store.refusal import refused

Obj = dict[str, Any]
Serve = Callable[[Request], Awaitable[Reply]]


@dataclass(slots=True)
class Record:
    """One request's. `acting` is whom the user acts as."""

    log: Log
    outcome: Outcome
    request: Request
    asked: Attributes
    user: User
    acting: User | None
    annotations: Mapping[str, str]
    received: float
    body: bytes | None = None

    async def follow(self, serve: Serve) -> Reply:
        """Serves the request and writes down how it went."""
        self._stage("RequestReceived", None)
        request = self.request
        if self.outcome.level >= Level.REQUEST or self.asked.verb == "create":
            request = replace(request, body=self._remembering(request.body))
        try:
            reply = await serve(request)
        finally:
            self._failed(sys.exception())
        match reply:
            case Answer():
                self._stage("ResponseComplete", {"metadata": {}, "code": reply.code}, reply)
                return reply
            case Stream(whole=True):  # one document in slices
                return replace(reply, chunks=Ending(reply.chunks, lambda: self._complete(reply.code)))
            case Stream():
                self._stage("ResponseStarted", {"metadata": {}, "code": reply.code})
                return replace(reply, chunks=Ending(reply.chunks, lambda: self._complete(reply.code)))
            case Feed():
                self._stage("ResponseStarted", {"metadata": {}, "code": reply.code})
                return replace(reply, run=lambda outlet: self._followed(reply, outlet))
            case _:
                self._complete(101)
                return reply

    async def _followed(self, feed: Feed, outlet: Outlet) -> None:
        try:
            await feed.run(outlet)
        finally:
            self._complete(feed.code)

    def _failed(self, error: BaseException | None) -> None:
        """Whoever raises it answers it; here it is only written down."""
        match error:
            case None:
                pass
            case StatusError():
                self._stage("ResponseComplete", _status(error), error.to_dict())
            case StoreFailed() | StoreLost():
                refusal = refused(error)
                self._stage("ResponseComplete", _status(refusal), refusal.to_dict())
            case asyncio.CancelledError():  # the client is gone, and nobody was answered
                self._stage("ResponseComplete", {"metadata": {}, "status": "Failure", "reason": "Timeout", "code": 504})
            case _:
                self._stage("Panic", {"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500})

    def _complete(self, code: int) -> None:
        self._stage("ResponseComplete", {"metadata": {}, "code": code})

    def _remembering(self, read: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[bytes]]:
        async def body() -> bytes:
            self.body = await read()
            return self.body

        return body

    def _stage(self, stage: str, status: Obj | None, response: Answer | Obj | None = None) -> None:
        if stage in self.outcome.omit_stages:
            return
        moment, body = time(), self.body
        size = len(body or b"") + (len(response.body) if isinstance(response, Answer) else 0)
        self.log.offer(lambda: self._line(stage, moment, status, body, response), size)

    def _line(self, stage: str, moment: float, status: Obj | None, body: bytes | None, response: Any) -> bytes:
        """Without the objects when they are nothing that JSON can say: who asked for what is written in any case."""
        try:
            event = self._event(stage, moment, status, body, response)
            return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        except (ValueError, TypeError, RecursionError):
            event = self._event(stage, moment, status, None, None)
            return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)

    def _event(self, stage: str, moment: float, status: Obj | None, body: bytes | None, response: Any) -> Obj:
        event: Obj = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": self.outcome.level.word,
            "auditID": self.request.audit_id,
            "stage": stage,
            "requestURI": self.request.path + (f"?{self.request.raw_query}" if self.request.raw_query else ""),
            "verb": self.asked.verb,
            "user": self.user.info(),
        }
        if self.acting is not None:
            event["impersonatedUser"] = self.acting.info()
        event["sourceIPs"] = sources(self.request)
        if self.request.user_agent:
            event["userAgent"] = self.request.user_agent
        posted = _decoded(body, self.request.headers.get("Content-Type", "")) if body else None
        if self.asked.resource:
            event["objectRef"] = object_ref(self.asked, posted)
        if status is not None:
            event["responseStatus"] = status
        if stage != "RequestReceived":
            event |= self._objects(posted, response)
        event["requestReceivedTimestamp"] = micro(self.received)
        event["stageTimestamp"] = micro(moment)
        if self.annotations and stage != "RequestReceived":
            event["annotations"] = dict(self.annotations)
        return event

    def _objects(self, posted: Any, response: Any) -> Obj:
        found: Obj = {}
        if self.outcome.level >= Level.REQUEST and posted is not None:
            found["requestObject"] = posted
        if self.outcome.level >= Level.REQUEST_RESPONSE and response is not None:
            answered = response
            if isinstance(response, Answer):
                answered = orjson.loads(response.body) if response.content_type == JSON and response.body else None
            if answered is not None:
                found["responseObject"] = answered
        if self.outcome.omit_managed_fields:
            for one in found.values():
                _without_managed_fields(one)
        return found


@dataclass(frozen=True, slots=True)
class Audit:
    policy: Policy
    log: Log

    def record(self, request: Request, asked: Attributes, user: User, decision: Decision) -> Record | None:
        """None for what the policy leaves out. `user` is who has authenticated, who may act as another one."""
        found = outcome(self.policy, asked)
        if found.level == Level.NONE:
            return None
        annotations = {
            "authorization.k8s.io/decision": "allow" if decision.allowed else "forbid",
            "authorization.k8s.io/reason": decision.reason,
        }
        acting = asked.user if asked.user is not user else None
        return Record(self.log, found, request, asked, user, acting, annotations, time())

    def denied(self, request: Request, asked: Attributes, user: User, error: StatusError) -> None:
        """Somebody who may not act as whom he named: nobody else's is this request than his own."""
        found = outcome(self.policy, asked)
        if found.level == Level.NONE:
            return
        record = Record(self.log, found, request, asked, user, None, {}, time())
        record._stage("RequestReceived", None)
        record._failed(error)

    def refused(self, request: Request, asked: Attributes) -> None:
        """Somebody whose proof was not good: what upstream writes at 401."""
        found = outcome(self.policy, asked)
        if found.level == Level.NONE:
            return
        shown = request.headers.get("Authorization", "").partition(" ")[0].lower()
        message = f"Authentication failed, attempted: {shown or 'none'}"
        status = {"metadata": {}, "status": "Failure", "message": message, "reason": "Unauthorized", "code": 401}
        record = Record(self.log, found, request, asked, User(""), None, {}, time())
        record._stage("ResponseStarted", status)


def object_ref(asked: Attributes, posted: Any) -> Obj:
    """What a request is about; what the path does not say of a new object, its body does."""
    metadata = posted.get("metadata") if isinstance(posted, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    ref = {
        "resource": asked.resource,
        "namespace": asked.namespace or metadata.get("namespace", ""),
        "name": asked.name or metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "apiGroup": asked.group,
        "apiVersion": asked.version,
        "resourceVersion": metadata.get("resourceVersion", ""),
        "subresource": asked.subresource,
    }
    return {key: value for key, value in ref.items() if value}


def sources(request: Request) -> list[str]:
    """As upstream lists them: what proxies say, and at the end who is connected."""
    said = [one.strip() for one in request.headers.get("X-Forwarded-For", "").split(",") if one.strip()]
    real = request.headers.get("X-Real-Ip", "").strip()
    if real and real not in said:
        said.append(real)
    if request.source and (not said or said[-1] != request.source):
        said.append(request.source)
    return said


def micro(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _status(error: StatusError) -> Obj:
    status = error.to_dict()
    return {key: value for key, value in status.items() if key not in ("kind", "apiVersion")}


def _decoded(body: bytes, content_type: str) -> Any:
    """The JSON that a body means; a patch is its own document. None for what means nothing."""
    kind = codec.media_type(content_type)
    try:
        if kind in (codec.PROTOBUF, codec.YAML):
            return codec.decode_body(body, content_type).obj
        return yaml.loads(body)[0] if kind.endswith("+yaml") else json.loads(body)
    except (ValueError, StatusError):
        return None


def _without_managed_fields(obj: Any) -> None:
    if not isinstance(obj, dict):
        return
    for one in (obj, *(obj.get("items") or () if isinstance(obj.get("items"), list) else ())):
        if isinstance(one, dict) and isinstance(one.get("metadata"), dict):
            one["metadata"].pop("managedFields", None)
