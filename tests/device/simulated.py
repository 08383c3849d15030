"""A simulated accelerator: a torch device that is no CPU, on a machine that has nothing else.

`load` builds it with the compiler at hand, once for each version of torch, and registers it under
the name "simulated". That cannot be undone, and torch then says that it has an accelerator: only
for processes that run nothing but the tests of this folder.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("simulated.cpp")

#: Free memory that it says it has.
GIBIBYTES = 4


def why_not():
    """Why it cannot be built here; None if it can."""
    if shutil.which("g++") is None:
        return "needs a compiler (g++) to build the simulated device"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else f"needs {header} to build the simulated device"


def load(folder):
    """Build the extension in `folder`, unless it is there, register it, return its controls."""
    key = hashlib.sha256(SOURCE.read_bytes() + f"{torch.__version__} {sys.version}".encode())
    library = Path(folder, f"simulated_device_{key.hexdigest()[:16]}.so")
    if not library.exists():
        unfinished = library.with_suffix(".unfinished")
        subprocess.run([*_command(), "-o", str(unfinished)], check=True, timeout=600)
        unfinished.replace(library)
    specification = importlib.util.spec_from_file_location("simulated_device", library)
    controls = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(controls)
    controls.set_capacity(GIBIBYTES * 2**30)
    torch.utils.rename_privateuse1_backend("simulated")
    torch._register_device_module("simulated", _device_module(controls))
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return controls


def _command():
    from torch.utils.cpp_extension import include_paths, library_paths

    includes = [*include_paths(), sysconfig.get_paths()["include"]]
    return [
        "g++",
        *("-std=c++20", "-O1", "-w", "-fPIC", "-shared", str(SOURCE)),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-isystem{path}" for path in includes),
        *(f"-L{path}" for path in library_paths()),
        *("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"),
    ]


def _device_module(controls):
    """What torch and its users look for in ``torch.simulated``."""
    module = types.ModuleType("torch.simulated")
    for name in ("current_device", "set_device", "device_count", "mem_get_info"):
        setattr(module, name, getattr(controls, name))
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    return module
