"""Eight virtual CPU devices for every test, so that meshes are real; set before JAX starts.

Most of the tests' time is compilation of small programs that run once: LLVM is told not to optimise them, fusions are not put through emitters of
their own where that can be chosen (half of the time that is left), and what one test has compiled is kept for the others, of all workers, until the tests end.
"""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# Later versions know no such flag, and XLA ends the process over it.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# What tests train with their own code is noted apart from what the user knows.
state = tempfile.mkdtemp(prefix="t2t-tests-state-")
atexit.register(shutil.rmtree, state, ignore_errors=True)
os.environ["XDG_STATE_HOME"] = state

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers' processes are started with the first one's
    compiled = tempfile.mkdtemp(prefix="t2t-tests-xla-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
