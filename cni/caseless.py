"""Keys in any case. Go's JSON decoder takes them so, and what is written for it counts on it: containerd spells what it tells
of a pod ``HostPort`` and ``IngressRate`` where the conventions have ``hostPort`` and ``ingressRate``, and an author's
``isgateway`` has always worked.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.codec import Json

_ALL = """
cniVersion name type ipam dns nameservers domain search options args cni mac ips runtimeConfig prevResult
interfaces sandbox mtu socketPath pciID version address gateway interface routes dst gw advmss priority table scope
bridge isGateway isDefaultGateway forceAddress ipMasq ipMasqBackend hairpinMode promiscMode vlan vlanTrunk id minID maxID
preserveDefaultVlan macspoofchk disableContainerInterface enabledad portIsolation
dataDir resolvConf subnet rangeStart rangeEnd ranges ipRanges subnetFile delegate
portMappings hostPort containerPort protocol hostIP backend snat masqAll markMasqBit externalSetMarkChain
conditionsV4 conditionsV6 bandwidth ingressRate ingressBurst egressRate egressBurst shapedSubnets unshapedSubnets
"""
_WORDS = frozenset(_ALL.split())
_FOLDED = {word.lower(): word for word in _WORDS}


def fold(said: Json) -> None:
    """Spells the keys that we know as we know them, at every depth. One that is there as it should be wins."""
    waiting = [said]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            for key in [key for key in each if key not in _WORDS and key.lower() in _FOLDED]:
                each.setdefault(_FOLDED[key.lower()], each.pop(key))
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
