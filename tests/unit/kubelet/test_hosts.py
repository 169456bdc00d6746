import msgspec

from kube.meta import ObjectMeta
from kube.pods import HostAlias, Pod, PodDNSConfig, PodDNSConfigOption, PodSpec
from kubelet import hosts
from kubelet.hosts import Resolver


def pod(**spec: object) -> Pod:
    return Pod(metadata=ObjectMeta(name="web-0", namespace="ns"), spec=PodSpec(**spec))  # type: ignore[arg-type]


HOST = hosts.parse_resolver("# made by hand\nnameserver 9.9.9.9\nsearch corp.example\noptions timeout:1\n")
DNS = ("10.96.0.10",)


def test_hosts_file() -> None:
    subject = pod(subdomain="db", host_aliases=(HostAlias(ip="1.2.3.4", hostnames=("foo", "bar")),))
    text = hosts.hosts_file(subject, ["10.244.0.2"], "cluster.local")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.244.0.2\tweb-0.db.ns.svc.cluster.local\tweb-0\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n")


def test_hosts_file_on_the_hosts_network() -> None:
    text = hosts.hosts_file(pod(host_network=True), [], "", "127.0.0.1 localhost\n")
    assert text == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"


def test_cluster_first() -> None:
    found = hosts.resolver(pod(), HOST, DNS, "cluster.local")
    assert hosts.resolver_file(found) == (
        "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n"
        "nameserver 10.96.0.10\noptions ndots:5\n"
    )


def test_default_and_what_falls_back_to_it() -> None:
    assert hosts.resolver(pod(dns_policy="Default"), HOST, DNS, "c") == HOST
    assert hosts.resolver(pod(), HOST, (), "c") == HOST
    assert hosts.resolver(pod(host_network=True), HOST, DNS, "c") == HOST
    assert hosts.resolver(pod(host_network=True, dns_policy="ClusterFirstWithHostNet"), HOST, DNS, "c") != HOST


def test_dns_config_is_added() -> None:
    config = PodDNSConfig(
        nameservers=("1.1.1.1",), searches=("my.example",), options=(PodDNSConfigOption(name="ndots", value="2"),)
    )
    alone = hosts.resolver(pod(dns_policy="None", dns_config=config), HOST, DNS, "c")
    assert alone == Resolver(("1.1.1.1",), ("my.example",), ("ndots:2",))
    added = hosts.resolver(pod(dns_config=config), HOST, DNS, "c")
    assert added.nameservers == ("10.96.0.10", "1.1.1.1")
    assert added.options == ("ndots:2",)


def test_limits() -> None:
    many = Resolver(tuple(f"10.0.0.{n}" for n in range(9)), tuple(f"d{n}.example" for n in range(99)))
    found = hosts.resolver(pod(dns_policy="Default"), many, (), "")
    assert len(found.nameservers) == 3
    assert len(found.searches) == 32


def test_hostname() -> None:
    assert hosts.kernel_hostname(pod(), "c") == "web-0"
    assert hosts.kernel_hostname(pod(hostname="h", subdomain="s", set_hostname_as_fqdn=True), "c") == "h.s.ns.svc.c"
    assert len(hosts.hostname(Pod(metadata=ObjectMeta(name="x" * 100)))) == 63


def test_the_override_goes_before_everything_and_stands_alone() -> None:
    name = f"{'x' * 60}.org"
    subject = msgspec.convert(
        {"spec": {"hostnameOverride": name, "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}}, Pod
    )
    assert hosts.kernel_hostname(subject, "c") == name
    assert hosts.hosts_file(subject, ["10.244.0.2"], "c").endswith(f"\n10.244.0.2\t{name}\n")
