"""Published specifications of accelerators."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator (one JAX device).

    hbm:            memory that a program can use, in bytes: the published size minus what the system reserves, as the compiler reports it.
    flops:          peak rate of bfloat16 matrix products, FLOP/s. A multiply-add counts as two.
    flops_float32:  rate of float32 matrix products in JAX's default precision, FLOP/s. TPUs round the operands to bfloat16, NVIDIA GPUs to TF32.
    ops_int8:       peak rate of int8 matrix products, operations/s.
    flops_float8:   rate of float8 matrix products, FLOP/s. It equals the bfloat16 rate if the compiler converts float8 to bfloat16.
    bandwidth:      memory bandwidth, bytes/s.
    link:           one-way bandwidth of one link inside a domain, bytes/s (one ICI link, or all NVLinks of a GPU together).
    dimensions:     dimensions of the torus inside a domain: 2 or 3, or 1 if a switch connects all chips.
    wraps:          a torus dimension is a closed ring if its size is a multiple of this number.
    between:        one-way bandwidth per chip to other domains, bytes/s (data-center network or InfiniBand).
    domain:         name of a group of chips with fast links ("slice" or "node").
    sources:        where the numbers are published.
    """

    name: str
    hbm: float
    flops: float
    flops_float32: float
    ops_int8: float
    flops_float8: float
    bandwidth: float
    link: float
    dimensions: int
    wraps: int
    between: float
    domain: str
    sources: tuple[str, ...]


_SCALING = (
    "Austin et al. 2025, How to Scale Your Model, jax-ml.github.io/scaling-book/tpus (links, data-center network)"
)

CHIPS = {
    "v5e": Chip(
        name="TPU v5e",
        hbm=15.75 * GIB,
        flops=197e12,
        flops_float32=197e12,
        ops_int8=393e12,
        flops_float8=197e12,
        bandwidth=819e9,
        link=45e9,
        dimensions=2,
        wraps=16,
        between=3.125e9,
        domain="slice",
        sources=(
            "cloud.google.com/tpu/docs/v5e (a pod of 256 chips has 6.4 Tbit/s to other pods)",
            "cloud.google.com/tpu/docs/v6e (int8 of v5e and v6e; no float8 rate is published)",
            _SCALING,
        ),
    ),
    "v5p": Chip(
        name="TPU v5p",
        hbm=95.74 * GIB,
        flops=459e12,
        flops_float32=459e12,
        ops_int8=918e12,
        flops_float8=459e12,
        bandwidth=2765e9,
        link=90e9,
        dimensions=3,
        wraps=4,
        between=6.25e9,
        domain="slice",
        sources=(
            "cloud.google.com/tpu/docs/v5p (float8 runs at the bfloat16 rate)",
            "Vahdat & Lohmeyer 2023, Introducing Cloud TPU v5p and AI Hypercomputer, cloud.google.com/blog (int8)",
            _SCALING,
        ),
    ),
    "v6e": Chip(
        name="TPU v6e",
        hbm=31.25 * GIB,
        flops=918e12,
        flops_float32=918e12,
        ops_int8=1836e12,
        flops_float8=918e12,
        bandwidth=1600e9,
        link=90e9,
        dimensions=2,
        wraps=16,
        between=12.5e9,
        domain="slice",
        sources=("cloud.google.com/tpu/docs/v6e (a pod of 256 chips has 25.6 Tbit/s to other pods)", _SCALING),
    ),
    "h100": Chip(
        name="H100 SXM 80GB",
        # CUDA and its libraries use some memory; set XLA_PYTHON_CLIENT_MEM_FRACTION so that JAX can use the rest.
        hbm=0.95 * 84_942_979_072,
        flops=989.4e12,
        flops_float32=494.7e12,
        ops_int8=1978.9e12,
        flops_float8=1978.9e12,
        bandwidth=3352e9,
        link=450e9,
        dimensions=1,
        wraps=1,
        between=50e9,
        domain="node",
        sources=(
            "NVIDIA H100 datasheet (dense rates, half of the rates with sparsity; NVLink 900 GB/s in both directions)",
            "NVIDIA DGX H100 datasheet (one 400 Gbit/s adapter per GPU)",
        ),
    ),
}

H100_TARGET = """
gpu_device_info {
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  device_memory_size: 84942979072  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9  minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""Description of an H100 for XLA's GPU compiler (xla.GpuTargetConfigProto in text format). The values come from CUDA's device query."""
