"""Launchers of a training with several processes: on this machine, with SLURM, on Kubernetes, on TPU VMs."""
