"""Ways to start the processes of one training: on this machine, with SLURM, on Kubernetes, on TPU VMs."""
