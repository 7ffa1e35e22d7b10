"""Runs what the chart renders in Docker, pod by pod as a kubelet would, for want of a cluster: `make chart-test`."""
