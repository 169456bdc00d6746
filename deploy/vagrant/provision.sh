#!/bin/bash
# Make this machine a node of the cluster: provision.sh NAME ADDRESS SERVER_ADDRESS NAME=ADDRESS,...
set -euo pipefail
name=$1 address=$2 server=$3 nodes=$4

/wherry/tools/setup
systemctl enable --now docker
python3 -m venv /opt/wherry
/opt/wherry/bin/pip install --quiet --disable-pip-version-check /wherry
ln -sf /opt/wherry/bin/wherry /usr/local/bin/wherry

if [ "$address" = "$server" ]; then
	wherry install server --address "$server" $(tr , '\n' <<<"$nodes" | sed 's/^/--node /')
	cp /etc/wherry/bundles/*.tar /bundles/
	systemctl daemon-reload
	systemctl enable --now wherry.target wherry-apiserver wherry-scheduler wherry-controllers
	install -d -m 700 /root/.kube
	ln -sf /etc/wherry/admin.kubeconfig /root/.kube/config
fi
wherry install agent --bundle "/bundles/$name.tar"
systemctl daemon-reload
systemctl enable --now wherry.target wherry-kubelet wherry-proxy wherry-overlay wherry-metrics

# The demo's image is built on each machine from its own files: there is no registry.
/opt/wherry/bin/python - <<'PYTHON'
from pathlib import Path
from lab import images
images.ensure("unix:///var/run/docker.sock", Path("/wherry/deploy/demo/image"))
PYTHON
echo "$name ($address) is installed"
