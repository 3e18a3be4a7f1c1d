"""The only importer of the compiled module ``fastfid._C``: what it offers, or why it is not there.

The module is imported on first use. It does not link to libtorch, so one build serves every torch version, and its CUDA
part carries its own runtime, so it imports where there is no NVIDIA driver.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

_REINSTALL = "install fastfid again with a C++17 compiler (GCC or Clang) present: pip install --force-reinstall ."
_BUILD_CUDA = (
    "install fastfid again where nvcc is found: FASTFID_BUILD_CUDA=1 pip install --force-reinstall --no-deps . "
    "(FASTFID_CUDA_ARCH chooses the architectures)"
)
_OLDEST = (8, 0)
_INTERFACE = 4  # of the functions in csrc/bindings.cpp


@functools.cache
def _load() -> ModuleType | str:
    """The module, or the reason why it can't be imported."""
    try:
        loaded = importlib.import_module("fastfid._C")
    except ModuleNotFoundError:
        return f"fastfid._C was not built; {_REINSTALL}"
    except ImportError as error:
        return f"fastfid._C is there but does not load ({error}); {_REINSTALL}"
    if getattr(loaded, "interface", None) != _INTERFACE:
        return f"fastfid._C was built from another version of csrc/; {_REINSTALL}"
    return loaded


def module() -> ModuleType:
    """The compiled module; ImportError with the reason where there is none."""
    loaded = _load()
    if isinstance(loaded, str):
        raise ImportError(loaded)
    return loaded


def build_info() -> dict[str, object]:
    """How ``fastfid._C`` was built, or ``{"missing": reason}``.

    Returns:
        cuda (bool), cuda_archs ("80;90", the last one also as PTX), nvcc, compiler, simd (CPU levels compiled),
        cpu_levels (those this CPU runs, best first), commit ("unknown" outside a checkout).
    """
    loaded = _load()
    if isinstance(loaded, str):
        return {"missing": loaded}
    facts: dict[str, object] = loaded.build_info()
    return facts


def why_no_cpp(device_type: str) -> str | None:
    """None where the C++ backend can run on tensors of that device type, else the reason."""
    if device_type != "cpu":
        return f"the C++ backend works on CPU tensors, not on {device_type}"
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def why_no_cuda(device_type: str) -> str | None:
    """None where the CUDA backend can run on tensors of that device type, else the reason."""
    if device_type != "cuda":
        return f"the CUDA backend works on CUDA tensors, not on {device_type}"
    loaded = _load()
    if isinstance(loaded, str):
        return loaded
    facts = loaded.build_info()
    if not facts["cuda"]:
        return f"fastfid._C was built without CUDA; {_BUILD_CUDA}"
    import torch

    if torch.version.cuda is None:
        return "this torch is not a CUDA build; install one that is, from pytorch.org"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; see nvidia-smi"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
    built = [int(arch.rstrip("af")) for arch in str(facts["cuda_archs"]).split(";")]
    number = 10 * capability[0] + capability[1]
    # A cubin runs on its own major version from its minor upwards; the newest architecture is also there as PTX.
    if number >= max(built) or any(arch // 10 == capability[0] and arch <= number for arch in built):
        return None
    return (
        f"fastfid._C was built for sm_{facts['cuda_archs']}, the GPU is sm_{number}; "
        f"FASTFID_CUDA_ARCH={number}: {_BUILD_CUDA}"
    )


def default_threads() -> int:
    """torch's own number of threads; one inside a DataLoader worker, where the processes share the cores."""
    import torch
    from torch.utils.data import get_worker_info

    return 1 if get_worker_info() is not None else torch.get_num_threads()


def cpu_level() -> str:
    """The instruction set asked for by FASTFID_CPU_LEVEL (avx512, avx2, baseline); "" lets the CPU decide."""
    return os.environ.get("FASTFID_CPU_LEVEL", "")
