"""Who of the pods that were bound here is let in, one after the other: each is held against those who are in already.

not decidable yet (the own Node is not known)           wait
started by an earlier kubelet, or has been told to      in, without a question
no objection                                            in
no room, but those of lower standing could make it      they are ended; it waits until they are gone, and nobody of no
                                                        standing takes the room meanwhile
any other objection                                     sentenced: Failed, with upstream's reason, and an Event
"""

from collections.abc import Callable, Iterator, Mapping

from kube.pods import Pod
from kubelet import resources
from kubelet.admission import preemption
from kubelet.admission.fit import was_let_in
from kubelet.admission.gate import Gate
from kubelet.life import Life
from kubelet.model import Seen, Stage
from kubelet.observe.pods import PodSource
from kubelet.status import FAILED, TERMINAL, Sentence
from kubelet.told import Told


class Door:
    """`end(uid, sentence)` ends a pod for another one's sake."""

    def __init__(
        self,
        gate: Gate,
        lives: Mapping[str, Life],
        source: PodSource,
        told: Told,
        end: Callable[[str, Sentence], None],
    ) -> None:
        self._gate = gate
        self._lives = lives
        self._source = source
        self._told = told
        self._end = end

    def admit(self, life: Life, pod: Pod, seen: Seen) -> bool:
        """Decide: `life` is admitted or sentenced then. False when it has to wait."""
        if seen.sandboxes or seen.containers or was_let_in(pod):
            self._in(life)
            return True
        if not self._gate.ready(pod):
            return False
        others = tuple(self.inside(life, pod))
        found = self._gate.objection(pod, others)
        if found is None:
            self._in(life)
            return True
        ending = tuple(self._ending())
        leaving = self._gate.victims(pod, others, found)
        if leaving:
            life.awaits_room = True
            for victim in leaving:
                if victim.metadata.uid not in ending:
                    self._send_away(victim)
            return False
        life.awaits_room = False
        life.sentence = Sentence(FAILED, found.reason, f"Pod was rejected: {found.message}", rejected=True)
        self._told.pod(pod, "Warning", found.reason, found.message)
        return True

    def _in(self, life: Life) -> None:
        life.admitted, life.awaits_room = True, False

    def _send_away(self, victim: Pod) -> None:
        why = "Pod was preempted by Kubelet to accommodate a critical pod."
        self._told.pod(victim, "Warning", preemption.REASON, preemption.MESSAGE)
        self._end(victim.metadata.uid, Sentence(FAILED, preemption.REASON, preemption.MESSAGE, disruption=why))

    def _ending(self) -> Iterator[str]:
        return (uid for uid, life in self._lives.items() if life.sentence is not None)

    def inside(self, life: Life, pod: Pod) -> Iterator[Pod]:
        """Everybody else who has a place and has not given it back; of pods that no worker has looked at yet, those that an
        earlier kubelet let in."""
        for other in self._source.pods():
            uid = other.metadata.uid
            known = self._lives.get(uid)
            if uid == life.uid:
                continue
            if known is not None:
                reserved = known.awaits_room and not resources.is_critical(pod)
                if (known.admitted or reserved) and known.stage < Stage.TERMINATED:
                    yield known.pod or other
            elif was_let_in(other) and other.status.phase not in TERMINAL:
                yield other
