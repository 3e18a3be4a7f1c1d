#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command on a bare machine (Python with torch, nvcc, a C++17 compiler):
#     bench/gpu.sh             build, test, sanitise, time; exits non-zero at the first failure
#     bench/gpu.sh --without-gpu   the steps that need no GPU (CI runs them): build with nvcc, import, list tests and cases
# FASTFID_CUDA_ARCH chooses the architectures (default here: the GPU's own, or 80;90;100 without one).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
without=${1:-}

step() { printf '\n== %s\n' "$*"; }

step "machine"
nvcc --version | tail -n 2
"$python" -c "import torch, sys; print('torch', torch.__version__, 'python', sys.version.split()[0])"
if [ "$without" = "--without-gpu" ]; then
    export FASTFID_CUDA_ARCH=${FASTFID_CUDA_ARCH:-"80;90;100"}
    library=$(mktemp -d)
    trap 'rm -rf "$library"' EXIT

    step "build with nvcc, elsewhere"
    FASTFID_BUILD_CUDA=1 "$python" setup.py -q build_ext --build-lib "$library" --build-temp "$library/temporary"

    step "import without a driver, and a launch that says what is missing"
    "$python" - "$library" <<'PYTHON'
import ctypes, importlib.util, pathlib, sys

(path,) = pathlib.Path(sys.argv[1], "fastfid").glob("_C*.so")
spec = importlib.util.spec_from_file_location("fastfid._C", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.build_info())
assert module.build_info()["cuda"]
job = ctypes.create_string_buffer(17 * 8)
try:
    module.resample_cuda(
        0, ctypes.addressof(job), 0, 1, 3, 0, False, 0, (8, 8, 192, 1, 24, 3), 0, (1.0,) * 3, (0.0,) * 3, 0.0, 1.0, 0, 0
    )
except RuntimeError as error:
    print("as it should:", error)
else:
    raise SystemExit("a launch without a GPU did not fail")
PYTHON

    step "registers and spills"
    for arch in ${FASTFID_CUDA_ARCH//;/ }; do
        nvcc -std=c++17 -O3 -fmad=false --expt-relaxed-constexpr -Icsrc "-gencode=arch=compute_$arch,code=sm_$arch" \
            -Xptxas -v -cubin -o /dev/null csrc/resample_cuda.cu 2>&1 |
            grep -E 'Compiling entry|registers|spill' |
            sed -E "s/.*TileI(.)Li([0-9])ELb([01]).*/sm_$arch pixel \1, \2 channels, quantize \3/; s/ptxas info *: *//"
    done

    step "GPU tests and cases that would run"
    "$python" -m pytest -q -m gpu --collect-only tests | tail -n 3
    "$python" bench/run.py --device cpu --list
    exit 0
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
if [ -z "${FASTFID_CUDA_ARCH:-}" ]; then
    FASTFID_CUDA_ARCH=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")
    export FASTFID_CUDA_ARCH
fi

step "build for sm_$FASTFID_CUDA_ARCH"
FASTFID_BUILD_CUDA=1 "$python" -m pip install -q --no-build-isolation --no-deps -e .
"$python" -c "from fastfid import _native; print(_native.build_info()); assert _native.why_no_cuda('cuda') is None"

step "tests on the GPU"
"$python" -m pytest -q -m gpu tests

step "compute-sanitizer"
if command -v compute-sanitizer > /dev/null; then
    # PYTORCH_NO_CUDA_MEMORY_CACHING: every tensor its own allocation, so that a stray access is seen
    for tool in memcheck racecheck synccheck; do
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 --kernel-name regex:resample \
            "$python" -m pytest -q -m gpu -x tests/test_resample_gpu.py -k "contracts or strided or output_types or test_ragged"
    done
else
    echo "compute-sanitizer is not on PATH: not run" >&2
    exit 1
fi

step "times"
"$python" bench/run.py --device cuda --seconds 3
