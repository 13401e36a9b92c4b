"""Set up eight virtual CPU devices for all tests, before JAX starts, so that tests can use real meshes.

Most of the test time is compilation of small programs that run once. So LLVM does not optimize, the fusion emitters are off if JAX has the flag (this
halves the remaining time), a program is compiled as one piece (dividing it for several threads takes a tenth more processor time), and all workers
share a compilation cache until the tests end.
"""

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# Later versions do not have this flag, and XLA ends the process for unknown flags.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Do not mix the record of code that tests train with into the user's own record.
state = tempfile.mkdtemp(prefix="t2t-tests-state-")
atexit.register(shutil.rmtree, state, ignore_errors=True)
os.environ["XDG_STATE_HOME"] = state

# Tests start hundreds of commands. Without stored bytecode, each would compile the library's source again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # worker processes inherit the directory of the first process
    compiled = tempfile.mkdtemp(prefix="t2t-tests-xla-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
