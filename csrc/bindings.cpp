// fastfid._C: the only file that knows Python. Tensors arrive as addresses, sizes and strides; fastfid/_native.py is
// the only importer and fastfid/resample/_engines.py has checked every argument.
#include <pybind11/pybind11.h>

#include <array>
#include <stdexcept>
#include <string>

#include "build_facts.h"
#include "resample_blocks.h"
#include "resample_cpu.h"
#if FASTFID_WITH_CUDA
#include "resample_cuda.h"
#endif

namespace py = pybind11;
using namespace fastfid;

namespace {

py::dict build_info() {
    py::dict info;
    info["cuda"] = FASTFID_WITH_CUDA == 1;
    info["cuda_archs"] = FASTFID_CUDA_ARCHS;
    info["nvcc"] = FASTFID_NVCC;
    info["compiler"] = FASTFID_COMPILER;
    info["simd"] = FASTFID_SIMD;
    info["commit"] = FASTFID_COMMIT;
    info["cpu_levels"] = cpu_levels();
    return info;
}

Plan make_plan(int channels, int pixel, bool quantize, uintptr_t out, std::array<int64_t, 6> shape, int dtype,
               const py::sequence& scale, const py::sequence& bias, float low, float high) {
    if (channels != 1 && channels != 3 && channels != 4) throw std::invalid_argument("channels must be 1, 3 or 4");
    Plan plan{};
    plan.output = {reinterpret_cast<void*>(out), shape[0], shape[1], shape[2], shape[3], shape[4], shape[5],
                   static_cast<Store>(dtype)};
    plan.channels = channels;
    plan.pixel = static_cast<Pixel>(pixel);
    plan.quantize = quantize;
    plan.finish.low = low;
    plan.finish.high = high;
    for (int c = 0; c < channels; ++c) {
        plan.finish.scale[c] = scale[c].cast<float>();
        plan.finish.bias[c] = bias[c].cast<float>();
    }
    return plan;
}

std::array<int64_t, 6> six(const py::sequence& values) {
    std::array<int64_t, 6> numbers{};
    for (size_t i = 0; i < 6; ++i) numbers[i] = values[i].cast<int64_t>();
    return numbers;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "Compiled core of fastfid; reach it through fastfid._native.";
    module.attr("interface") = 3;  // fastfid/_native.py refuses a module built from other sources
    module.def("build_info", &build_info, "What this module was built with, and the CPU levels that run here.");
    module.def(
        "resample_cpu",
        [](uintptr_t jobs, int64_t count, int channels, int pixel, bool quantize, uintptr_t out,
           const py::sequence& shape, int dtype, const py::sequence& scale, const py::sequence& bias, float low,
           float high, int threads, const std::string& level) {
            const Plan plan = make_plan(channels, pixel, quantize, out, six(shape), dtype, scale, bias, low, high);
            const py::gil_scoped_release free;
            resample_cpu(reinterpret_cast<const Job*>(jobs), count, plan, threads, level.c_str());
        },
        "Resample `count` images; `jobs` is the address of their Job records, shape is (height, width, stride_n, "
        "stride_c, stride_h, stride_w) of the output.",
        py::arg("jobs"), py::arg("count"), py::arg("channels"), py::arg("pixel"), py::arg("quantize"), py::arg("out"),
        py::arg("shape"), py::arg("dtype"), py::arg("scale"), py::arg("bias"), py::arg("low"), py::arg("high"),
        py::arg("threads"), py::arg("level") = "");
    module.def(
        "resample_blocks",
        [](uintptr_t jobs, int64_t count, int channels, int pixel, bool quantize, uintptr_t out,
           const py::sequence& shape, int dtype, const py::sequence& scale, const py::sequence& bias, float low,
           float high) {
            resample_blocks(reinterpret_cast<const Job*>(jobs), count,
                            make_plan(channels, pixel, quantize, out, six(shape), dtype, scale, bias, low, high));
        },
        "As resample_cpu, by the blocks of the CUDA kernel run on the CPU; for tests.");
#if FASTFID_WITH_CUDA
    module.def(
        "resample_cuda",
        [](uintptr_t jobs, uintptr_t job, int64_t step, int64_t count, int channels, int pixel, bool quantize,
           uintptr_t out, const py::sequence& shape, int dtype, const py::sequence& scale, const py::sequence& bias,
           float low, float high, int device, uintptr_t stream) {
            resample_cuda(reinterpret_cast<const Job*>(jobs), *reinterpret_cast<const Job*>(job), step, count,
                          make_plan(channels, pixel, quantize, out, six(shape), dtype, scale, bias, low, high), device,
                          reinterpret_cast<void*>(stream));
        },
        "Enqueue the resampling of `count` images on a CUDA stream. `jobs`: Job records in device memory, or 0 where "
        "image i is `job` (host memory) with its data moved on by i * step bytes.");
#endif
}
