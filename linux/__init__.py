"""The kernel vocabulary: processes, namespaces, netlink, iptables, cgroups, mounts, sysctl. It knows no Kubernetes."""
