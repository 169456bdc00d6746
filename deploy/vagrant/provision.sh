#!/bin/bash
# Make this machine a node of the cluster, and the first also its server: provision.sh NAME ADDRESS server|node
# It may be run again (vagrant provision): what is there is kept, programs and units are renewed.
set -euo pipefail
name=$1 address=$2 role=$3

if [ ! -e /staged/bundle.tar ]; then
	echo "/staged/bundle.tar is missing: run deploy/vagrant/prepare on your machine, then vagrant rsync" >&2
	exit 1
fi
/wherry/tools/setup lab
# The kubelet makes its pods' cgroups itself.
if [ ! -e /etc/docker/daemon.json ]; then
	install -d /etc/docker
	echo '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}' >/etc/docker/daemon.json
fi
systemctl enable docker
systemctl restart docker
python3 -m venv /opt/wherry
/opt/wherry/bin/pip install --quiet --disable-pip-version-check --upgrade /wherry
ln -sf /opt/wherry/bin/wherry /usr/local/bin/wherry

units=(wherry-cni wherry-kubelet wherry-overlay wherry-proxy wherry-metrics)
if [ "$role" = server ]; then
	if [ ! -e /etc/wherry/pki/ca.key ]; then
		install -d /etc/wherry
		cp -r --preserve=mode /staged/root/etc/wherry/. /etc/wherry
		chown -R root:root /etc/wherry
	fi
	wherry install server --address "$address"
	units=(wherry-apiserver wherry-scheduler wherry-controllers "${units[@]}")
	install -d -m 700 /root/.kube
	ln -sf /etc/wherry/admin.kubeconfig /root/.kube/config
fi
wherry install agent --bundle /staged/bundle.tar
systemctl daemon-reload
systemctl enable wherry.target "${units[@]}"
systemctl restart "${units[@]}" --no-block

# The demo's image is built on each machine from its own files: there is no registry.
/opt/wherry/bin/python - <<'PYTHON'
from pathlib import Path
from lab import images
images.ensure("unix:///var/run/docker.sock", Path("/wherry/deploy/demo/image"))
PYTHON
echo "$name ($address) is installed"
