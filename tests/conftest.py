"""Eight virtual CPU devices for every test, so that meshes are real; set before JAX starts.

Most of the tests' time is compilation of small programs that run once: LLVM is told not to optimise them.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
