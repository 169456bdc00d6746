"""Carries actions out, in order, through the API and nothing else.

What a plan asks of an object that is gone is done. A lost race (Conflict, AlreadyExists) ends the pass: the next one sees
what won. Creating in a namespace that is being deleted is given up silently, as upstream does: its content is on its way
out. There is nothing of ours to `forget`: what controllers write belongs to the objects' owners.
"""

from collections.abc import Iterable

from controllers.model import Action, Amend, Create, Delete, Tell
from kube.client import Client, Patch
from kube.errors import Forbidden, NotFound
from kube.events import Recorder
from kube.meta import Typed

_KINDS = {"merge": Patch.MERGE, "strategic": Patch.STRATEGIC}


def is_namespace_terminating(error: Forbidden) -> bool:
    return any(cause.get("reason") == "NamespaceTerminating" for cause in error.details.get("causes") or ())


async def carry_out(actions: Iterable[Action], client: Client, recorder: Recorder) -> list[Typed]:
    """What was created. Stops at the first refusal and raises it."""
    created: list[Typed] = []
    for action in actions:
        match action:
            case Create(resource, namespace, body):
                try:
                    created.append(await client.create(resource, body, namespace or None))
                except Forbidden as error:
                    if not is_namespace_terminating(error):
                        raise
                    return created
            case Amend():
                await amend(action, client)
            case Delete():
                await delete(action, client)
            case Tell(about, kind, reason, message):
                recorder.event(about, kind, reason, message)
    return created


async def amend(action: Amend, client: Client) -> None:
    try:
        await client.patch(
            action.resource,
            action.name,
            action.body,
            action.namespace or None,
            kind=_KINDS[action.kind],
            subresource=action.subresource,
        )
    except NotFound:
        return


async def delete(action: Delete, client: Client) -> None:
    try:
        await client.delete(
            action.resource,
            action.name,
            action.namespace or None,
            uid=action.uid,
            grace_period_seconds=action.grace,
            propagation=action.propagation,
        )
    except NotFound:
        return
