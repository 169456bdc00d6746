#!/bin/bash
# On node1: the demo application runs on every node and answers by pod address, ClusterIP and NodePort.
set -euo pipefail
export KUBECONFIG=${KUBECONFIG:-/etc/wherry/admin.kubeconfig}
here=$(cd "$(dirname "$0")" && pwd)

kubectl wait --for=condition=Ready node --all --timeout=120s
kubectl apply -f "$here/../demo/hello.yaml"
kubectl rollout status deployment/hello --timeout=180s
kubectl get nodes,pods -o wide
nodes=$(kubectl get pods -l app=hello -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)
[ "$nodes" -ge 2 ] || { echo "the pods are on $nodes node(s) only"; exit 1; }
for address in $(kubectl get pods -l app=hello -o jsonpath='{.items[*].status.podIP}'); do
	curl -fsS --max-time 5 "http://$address:8080/"
done
curl -fsS --max-time 5 "http://$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')/"
for address in $(kubectl get nodes -o jsonpath='{.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
	curl -fsS --max-time 5 "http://$address:30080/"
done
echo "smoke test passed"
