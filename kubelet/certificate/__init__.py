"""The kubelet's own certificates: who it is to the API and to those who call it."""
