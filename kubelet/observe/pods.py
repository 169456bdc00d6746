"""What is wanted of this node, by all sources of pods, as values. What is there is `view`'s."""

from collections.abc import Callable, Iterable

import msgspec

from kube.informer import Change, Informer
from kube.pods import Pod
from kubelet.observe.static import StaticPod
from kubelet.plan.situation import CONFIG_MIRROR, CONFIG_SOURCE
from kubelet.runtime import PodIdentity


class PodSource:
    """The pods that are wanted of this node, by uid, whoever wants them:

        the API    its watch, or until it has answered, what a kubelet before this one last saw (`kubelet.observe.checkpoint`);
                   mirror pods are set apart: they only show a static pod, and keep its last status
        local      files and web servers of static pods, each telling its whole set

    `changed(uid)` is called for each that came, changed or went. `local` names the local sources."""

    def __init__(self, informer: Informer[Pod], changed: Callable[[str], None], local: Iterable[str] = ()) -> None:
        self._informer = informer
        self._changed = changed
        self._pods: dict[str, Pod] = {}
        self._mirrors: dict[str, Pod] = {}
        self._local: dict[str, dict[str, StaticPod] | None] = dict.fromkeys(local)
        self._static: dict[str, Pod] = {}
        self._names: dict[str, StaticPod] = {}
        self._heard_of: set[str] = set()  # uids of static pods
        self._mirror_changed: list[Callable[[str], None]] = []
        self._alone = False
        informer.subscribe(self._take)

    def _take(self, change: Change[Pod]) -> None:
        """One change of the API's list."""
        old, new = change.old, change.new
        if any(pod is not None and CONFIG_MIRROR in pod.metadata.annotations for pod in (old, new)):
            self._take_mirror(change.key, new)
        replaced = old is not None and (new is None or new.metadata.uid != old.metadata.uid)
        if old is not None and replaced and self._pods.pop(old.metadata.uid, None) is not None:
            self._changed(old.metadata.uid)
        if new is not None and CONFIG_MIRROR not in new.metadata.annotations:
            self._pods[new.metadata.uid] = _of_the_api(new)
            self._changed(new.metadata.uid)

    def _take_mirror(self, key: str, new: Pod | None) -> None:
        if new is not None and CONFIG_MIRROR in new.metadata.annotations:
            self._mirrors[key] = new
        else:
            self._mirrors.pop(key, None)
        for tell in self._mirror_changed:
            tell(key)
        static = self._names.get(key)
        if static is not None:
            uid, mirror = static.pod.metadata.uid, self._mirror_of(static)
            if mirror is not None and not self.latest:  # of the API's first list: newer than what was kept
                self._static[uid] = msgspec.structs.replace(static.pod, status=mirror.status)
            self._changed(uid)

    def report(self, source: str, pods: list[StaticPod]) -> None:
        """All that a local source has now. Of two sources' pods with one name the first source's is taken."""
        first = self._local[source] is None
        self._local[source] = {one.pod.metadata.uid: one for one in pods}
        before, names = self._static, self._names
        self._static, self._names = {}, {}
        for found in self._local.values():
            for uid, one in (found or {}).items():
                if self._names.setdefault(one.pod.metadata.key, one) is one:
                    known = names.get(one.pod.metadata.key)
                    self._static[uid] = before[uid] if known is one and uid in before else self._entered(one)
        for uid in before.keys() | self._static.keys():
            if before.get(uid) is not self._static.get(uid):
                self._changed(uid)
        for key in names.keys() | self._names.keys() | (self._mirrors.keys() if first else set()):
            if first or names.get(key) is not self._names.get(key):
                for tell in self._mirror_changed:
                    tell(key)

    def _entered(self, static: StaticPod) -> Pod:
        """The pod, with the status that its mirror last had when this kubelet hears of it for the first time: it goes on from
        there. What is named again later has ended in between, and begins anew."""
        uid, mirror = static.pod.metadata.uid, self._mirror_of(static)
        first = uid not in self._heard_of
        self._heard_of.add(uid)
        return static.pod if mirror is None or not first else msgspec.structs.replace(static.pod, status=mirror.status)

    def _mirror_of(self, static: StaticPod) -> Pod | None:
        mirror = self._mirrors.get(static.pod.metadata.key)
        if mirror is None or mirror.metadata.annotations[CONFIG_MIRROR] != static.pod.metadata.uid:
            return None
        return mirror

    def subscribe_mirrors(self, changed: Callable[[str], None]) -> None:
        """`changed(namespace/name)` is called when a static pod or a mirror of that name came, changed or went."""
        self._mirror_changed.append(changed)

    @property
    def synced(self) -> bool:
        """Whether every source has told all its pods once: before that nothing may be taken for an orphan."""
        return self._informer.synced.is_set() and None not in self._local.values()

    @property
    def latest(self) -> bool:
        """Whether there is no newer word to be had of pods and their statuses: the API has answered, or does not."""
        return self._alone or self._informer.synced.is_set()

    def give_up(self) -> None:
        """The API does not answer: what was kept has to do."""
        self._alone = True

    def get(self, uid: str) -> Pod | None:
        return self._static.get(uid) or self._pods.get(uid)

    def pods(self) -> list[Pod]:
        return [*self._static.values(), *self._pods.values()]

    def superseded(self, pod: PodIdentity) -> bool:
        """Whether a manifest names another pod under that name: it is an earlier content of it, whatever the API will say."""
        found = self._names.get(f"{pod.namespace}/{pod.name}")
        return found is not None and found.pod.metadata.uid != pod.uid

    def is_static(self, uid: str) -> bool:
        return uid in self._static

    def in_api(self, uid: str) -> Pod | None:
        """What the API shows of a pod, and where its status is written: of a static pod, its mirror, also while it ends."""
        if not self._informer.synced.is_set():
            return None
        if uid in self._static:
            return self._mirror_of(self._names[self._static[uid].metadata.key])
        return self._pods.get(uid) or next((self._mirrors[key] for key in self.mirrors_of(uid)), None)

    def mirrors_of(self, uid: str) -> list[str]:
        """The names of the mirrors that show a static pod."""
        return [key for key, mirror in self._mirrors.items() if mirror.metadata.annotations[CONFIG_MIRROR] == uid]

    def own_uid(self, uid: str) -> str:
        """The static pod's uid for its mirror's; any other uid is its own."""
        shown = (m.metadata.annotations[CONFIG_MIRROR] for m in self._mirrors.values() if m.metadata.uid == uid)
        return next(shown, uid)

    async def answered(self) -> None:
        """Until the API has told all its pods once."""
        await self._informer.synced.wait()

    def static(self, key: str) -> StaticPod | None:
        return self._names.get(key)

    def mirror(self, key: str) -> Pod | None:
        return self._mirrors.get(key)

    def mirrored(self) -> set[str]:
        """The names of all static pods and mirrors."""
        return self._names.keys() | self._mirrors.keys()


def _of_the_api(pod: Pod) -> Pod:
    """The annotation that tells a static pod is not an author's to set (upstream overwrites it too)."""
    meta = pod.metadata
    if meta.annotations.get(CONFIG_SOURCE, "api") == "api":
        return pod
    annotations = {**meta.annotations, CONFIG_SOURCE: "api"}
    return msgspec.structs.replace(pod, metadata=msgspec.structs.replace(meta, annotations=annotations))
