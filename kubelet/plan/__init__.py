"""What to do about a pod: pure, from what is wanted and what was seen.

While it lives (`living`, upstream's computePodActions):

    sandbox unusable? --yes--> stop what ran in it, then create the next one (or nothing, if the pod's work is done)
          | no
    ephemeral containers: start those that never ran
          |
    init containers (`initial`), in order: the first that has not done its part runs; a failed one is restarted, or ends
          |                        the pod (Never); a sidecar's part is done once it has started, and it is kept running
          | all done
    app containers: start what never ran; stop what probes condemned or whose image changed; restart what the policy
          |         restarts, not before its back-off has passed (`restarts`)
          |
    remove dead containers but the newest of each name, and sandboxes nobody needs (`garbage`)

When it is to go (`ending`): preStop hooks of all at once, SIGTERM to the app containers, then to the sidecars in reverse
order, all within one deadline; then the sandboxes.

A plan holds only steps that do not depend on each other's outcome. The caller does them, looks again, and plans again,
until nothing is left to do: so a kubelet killed between any two steps goes on where it stopped.
"""

from kubelet.plan.ending import Ending, shrunk, termination
from kubelet.plan.garbage import leavings, removal_actions
from kubelet.plan.initial import initialised
from kubelet.plan.living import condemned, pod_actions
from kubelet.plan.restarts import backoff_key, container_hash, remembered_backoffs, restart_count, runs_again
from kubelet.plan.situation import Situation, hooked, is_sidecar, is_static, named, pod_label, reported, usable_sandbox

__all__ = [
    "Ending",
    "Situation",
    "backoff_key",
    "condemned",
    "container_hash",
    "hooked",
    "initialised",
    "is_sidecar",
    "is_static",
    "leavings",
    "named",
    "pod_actions",
    "pod_label",
    "remembered_backoffs",
    "removal_actions",
    "reported",
    "restart_count",
    "runs_again",
    "shrunk",
    "termination",
    "usable_sandbox",
]
