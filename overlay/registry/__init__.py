"""Where the nodes say who has which subnet: the Kubernetes API, or etcd."""
