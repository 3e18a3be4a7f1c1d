#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command on a bare machine (Python with torch, nvcc, a C++17 compiler):
#     bench/gpu.sh [FOLDER]                    build, test, sanitise, time; results and logs in FOLDER [bench/results/<gpu>]
#     bench/gpu.sh --only build,bench [FOLDER] some steps of build,test,sanitize,bench,e2e,micro, in that order
#     bench/gpu.sh --without-gpu               what needs no GPU (CI runs it): build with nvcc, import, list, check README
# A failed step does not stop the others, except that nothing follows a failed build; the exit status is then 1.
# FASTFID_CUDA_ARCH chooses the architectures (default here: the GPU's own, or 80;90;100 without one). E2E_COUNT is the
# number of images of the whole evaluations (50000), E2E_RUNS which of them run ("tensors growth pipeline").
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
steps=build,test,sanitize,bench,e2e,micro
without=
out=
while [ $# -gt 0 ]; do
    case $1 in
        --without-gpu) without=yes ;;
        --only)
            steps=${2:?--only needs the names of steps}
            shift
            ;;
        -*)
            echo "unknown option: $1" >&2
            exit 2
            ;;
        *) out=$1 ;;
    esac
    shift
done
for one in ${steps//,/ }; do
    case $one in
        build | test | sanitize | bench | e2e | micro) ;;
        *)
            echo "no such step: $one" >&2
            exit 2
            ;;
    esac
done

step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

step "machine"
nvcc --version | tail -n 2
"$python" -c "import torch, sys; print('torch', torch.__version__, 'python', sys.version.split()[0])"
if [ -n "$without" ]; then
    export FASTFID_CUDA_ARCH=${FASTFID_CUDA_ARCH:-"80;90;100"}
    library=$(mktemp -d)
    trap 'rm -rf "$library"' EXIT

    step "build with nvcc, elsewhere"
    FASTFID_BUILD_CUDA=1 "$python" setup.py -q build_ext --build-lib "$library" --build-temp "$library/temporary"

    step "import without a driver, and a launch that says what is missing"
    "$python" - "$library" <<'PYTHON'
import importlib.util, pathlib, sys

(path,) = pathlib.Path(sys.argv[1], "fastfid").glob("_C*.so")
spec = importlib.util.spec_from_file_location("fastfid._C", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.build_info())
assert module.build_info()["cuda"]
shared = (3, 0, False, 0, (8, 8, 192, 1, 24, 3), 0, (1.0,) * 3, (0.0,) * 3, 0.0, 1.0)
try:
    module.resample_cuda(bytes(17 * 8), 0, 0, (0, 768), shared, 0, 0)
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

    step "GPU tests, cases and microbenchmarks that would run; README is what the results say"
    "$python" -m pytest -q -m gpu --collect-only tests | tail -n 3
    "$python" -m pytest -q --collect-only bench/test_micro.py | tail -n 3
    "$python" bench/run.py --device cpu --list
    "$python" bench/report.py --check
    exit 0
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
if [ -z "${FASTFID_CUDA_ARCH:-}" ]; then
    FASTFID_CUDA_ARCH=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")
    export FASTFID_CUDA_ARCH
fi
if [ -z "$out" ]; then
    out=$(PYTHONPATH=bench "$python" -c \
        "import machine, torch; print(machine.RESULTS / machine.slug(machine.machine(torch.device('cuda'))))")
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
echo "results and logs: $out"

run_build() {
    FASTFID_BUILD_CUDA=1 "$python" -m pip install -q --no-build-isolation --no-deps -e .
    "$python" -c "from fastfid import _native; print(_native.build_info()); assert _native.why_no_cuda('cuda') is None"
}

run_test() { "$python" -m pytest -q -m gpu --junit-xml "$out/tests.xml" tests; }

sanitizer() { # tool, parts of kernel names, then pytest's words
    local tool=$1 filters=() part
    for part in $2; do filters+=(--kernel-name "kns=$part"); done
    shift 2
    # PYTORCH_NO_CUDA_MEMORY_CACHING: every tensor its own allocation, so that a stray access is seen
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 "${filters[@]}" \
        "$python" -m pytest -q -p no:cacheprovider -m gpu -x "$@"
}

run_sanitize() {
    command -v compute-sanitizer || {
        echo "compute-sanitizer is not on PATH" >&2
        return 1
    }
    local status=0 tool
    # racecheck and synccheck for the CUDA kernel only: Triton orders its asynchronous copies into shared memory by
    # waits that racecheck does not follow.
    for tool in memcheck racecheck synccheck; do
        sanitizer "$tool" resample_kernel tests/test_resample_gpu.py \
            -k "contracts or strided or output_types or test_ragged" || status=1
    done
    sanitizer memcheck "symmetric_product scatter_kernel column_sums" \
        tests/test_linalg_polar.py tests/test_moments_gpu.py || status=1
    return $status
}

run_bench() {
    "$python" bench/run.py --device cuda --seconds 2 --out "$out"
    "$python" bench/precision.py --out "$out"
}

run_e2e() {
    local count=${E2E_COUNT:-50000} status=0 one files
    for one in ${E2E_RUNS:-tensors growth pipeline}; do
        files=$count
        if [ "$one" = pipeline ]; then files=$((count < 2000 ? count : 2000)); fi
        "$python" bench/run.py --end-to-end "$one" --device cuda --count "$files" --repeat 2 --out "$out" || status=1
    done
    return $status
}

run_micro() { "$python" -m pytest -q bench/test_micro.py --benchmark-only -k cuda --benchmark-json "$out/micro.json"; }

failed=
for one in ${steps//,/ }; do
    step "$one"
    set +e # "run || …" would switch -e off inside the step as well
    (
        set -e
        "run_$one"
    ) 2>&1 | tee "$out/$one.log"
    status=${PIPESTATUS[0]}
    set -e
    if [ "$status" -ne 0 ]; then
        failed="$failed $one"
        echo "FAILED: $one (status $status)"
        if [ "$one" = build ]; then break; fi
    fi
done
if [ -n "$failed" ]; then
    printf '\nfailed:%s (%ss)\n' "$failed" "$SECONDS"
    exit 1
fi
printf '\nall steps passed (%ss); results and logs: %s\n' "$SECONDS" "$out"
