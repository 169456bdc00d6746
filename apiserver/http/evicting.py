"""POST pods/NAME/eviction: a deletion that asks the pod's disruption budget first.

The budget is charged with a compare-and-swap, then the pod is deleted. A pod that is not ready and therefore needs no room
is deleted only if it is still as it was seen: it must not have become ready meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from apiserver import budgets, deletion, subresources
from apiserver.admission import Attributes
from apiserver.deletion import Options
from apiserver.errors import StatusError, bad_request
from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.wire import decoded_body, method_not_allowed
from apiserver.pipeline import Target, Writer, now

Obj = dict[str, Any]
TRIES: Final = 20
BUDGETS: Final = "poddisruptionbudgets.policy"


@dataclass(frozen=True, slots=True)
class Evictions:
    writer: Writer

    async def evict(self, target: Target, request: Request) -> Reply:
        """Raises 404, 409 and 429."""
        if request.method != "POST":
            raise method_not_allowed(target.resource, request)
        eviction = (await decoded_body(request, subresources.EVICTION)).obj
        if (eviction["metadata"].get("name") or target.name) != target.name:
            raise bad_request("name in URL does not match name in Eviction object")
        asked = deletion.options(eviction.get("deleteOptions") or {}, request.query)
        asked = replace(asked, dry_run=asked.dry_run or target.dry_run)
        await self._admitted(target, eviction, asked)
        several = await self._attempts(target, asked)
        return json_answer(several, 500) if several else json_answer(subresources.success(201), 201)

    async def _admitted(self, target: Target, eviction: Obj, asked: Options) -> None:
        attributes = Attributes(
            target.resource,
            "CREATE",
            target.namespace,
            target.name,
            eviction,
            subresource="eviction",
            user=target.user,
            dry_run=asked.dry_run,
        )
        await self.writer.admission.mutate(attributes)
        await self.writer.admission.validate(attributes)

    async def _attempts(self, target: Target, asked: Options) -> Obj | None:
        """None when the pod was evicted."""
        for _ in range(TRIES):
            entry = self.writer.get(target)
            pod = entry.parse()
            if not budgets.ignores_budgets(pod):
                return await self._with_budget(target, asked, pod, entry.rv)
            pinned = asked if asked.rv or budgets.is_ending(pod) else replace(asked, rv=str(entry.rv))
            try:
                await deletion.delete(self.writer, target, pinned)
            except StatusError as error:
                if error.code != 409 or asked.rv:
                    raise
            else:
                return None
        raise target.conflict()

    async def _with_budget(self, target: Target, asked: Options, pod: Obj, rv: int) -> Obj | None:
        sight = self.writer.admission.sight
        resource = sight.resource(BUDGETS)
        found = budgets.covering(pod, sight.all(BUDGETS, target.namespace))
        if len(found) > 1:
            return {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": budgets.SEVERAL,
                "code": 500,
            }
        pinned = asked
        if found and resource:
            name = found[0]["metadata"]["name"]
            if budgets.needs_no_room(pod, found[0]):
                pinned = asked if asked.rv else replace(asked, rv=str(rv))
            else:
                book = Target(resource, target.namespace, name, asked.dry_run)
                moment = now()
                await self.writer.modify(
                    book, lambda budget: budgets.booked(budget, target.name, moment), subresource="status"
                )
        try:
            await deletion.delete(self.writer, target, pinned)
        except StatusError as error:
            if error.code == 409 and pinned is not asked:
                raise budgets.still_processed(found[0]["metadata"]["name"]) from error
            raise
        return None
