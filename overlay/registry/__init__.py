"""Where nodes tell each other which subnet is whose: the Kubernetes API or etcd. See `overlay.subnets`."""
