"""Services as iptables rules, in kube-proxy's own chains."""
