// fastfid._C: the only file that knows Python. Host memory arrives as buffers, GPU memory as (address, bytes); the
// integers that lead into them are checked in border.cpp. fastfid/runtime/native.py is the only importer.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "border.h"
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

int64_t integer(const py::handle& value) {  // OverflowError beyond 64 bits, TypeError for what is no integer
    const int64_t number = PyLong_AsLongLong(value.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
}

// Contiguous memory of a Python object, held while this lives.
class Bytes {
   public:
    explicit Bytes(const py::handle& object, bool writable = false) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw py::error_already_set();
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    ~Bytes() { PyBuffer_Release(&view_); }
    Span span() const { return {static_cast<char*>(view_.buf), static_cast<int64_t>(view_.len)}; }

   private:
    Py_buffer view_{};
};

constexpr int64_t kMostAddress = int64_t(1) << 57;  // five levels of pages; small multiples of it do not wrap

// GPU memory: (address, bytes).
Span on_device(const py::tuple& memory) {
    if (memory.size() != 2) throw std::invalid_argument("fastfid._C: GPU memory must be (address, bytes)");
    const int64_t address = integer(memory[0]), bytes = integer(memory[1]);
    if (bytes < 0 || address < 0) throw std::invalid_argument("fastfid._C: a negative address or number of bytes");
    if (address > kMostAddress || bytes > kMostAddress - address)
        throw std::invalid_argument("fastfid._C: GPU memory that reaches beyond all addresses");
    return {reinterpret_cast<char*>(address), bytes};
}

// What all images share: (channels, pixel, quantize, begin of the output in its memory, (height, width, stride_n,
// stride_c, stride_h, stride_w), dtype, scale, bias, low, high).
Plan plan_of(const py::tuple& shared, Span output, int64_t images) {
    if (shared.size() != 10) throw std::invalid_argument("fastfid._C: a plan has ten entries");
    const int64_t channels = integer(shared[0]), pixel = integer(shared[1]), quantize = integer(shared[2]);
    const int64_t begin = integer(shared[3]), dtype = integer(shared[5]);
    const py::sequence shape = shared[4], scale = shared[6], bias = shared[7];
    if (shape.size() != 6) throw std::invalid_argument("fastfid._C: the shape has six entries");
    std::array<int64_t, 6> six{};
    for (size_t i = 0; i < 6; ++i) six[i] = integer(shape[i]);
    Plan plan{};
    plan.output = {nullptr, six[0], six[1], six[2], six[3], six[4], six[5],
                   static_cast<Store>(dtype >= 0 && dtype < 4 ? dtype : -1)};
    plan.channels = channels > 0 && channels < 5 ? static_cast<int32_t>(channels) : 0;
    plan.pixel = static_cast<Pixel>(pixel == 0 || pixel == 1 ? pixel : -1);
    plan.quantize = quantize != 0;
    // A stride along an axis of length one is never followed, whatever it says: it becomes that of dense memory.
    Output& out = plan.output;
    if (images == 1) out.stride_n = 0;
    if (out.height == 1) out.stride_h = 0;
    if (plan.channels == 1) out.stride_c = 1;
    if (out.width == 1) out.stride_w = out.stride_c == 1 ? plan.channels : 1;
    check_plan(plan, images, output, begin);
    plan.output.data = output.begin + begin;
    if (scale.size() < static_cast<size_t>(channels) || bias.size() < static_cast<size_t>(channels))
        throw std::invalid_argument("fastfid._C: scale and bias need one number per channel");
    for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
        plan.finish.scale[c] = py::cast<float>(py::float_(scale[c]));
        plan.finish.bias[c] = py::cast<float>(py::float_(bias[c]));
    }
    plan.finish.low = py::cast<float>(py::float_(shared[8]));
    plan.finish.high = py::cast<float>(py::float_(shared[9]));
    return plan;
}

// Tables as (first, count, weights, longest, size); `places` holds the addresses on a GPU, [tables, 3] of 64 bits.
class Tables {
   public:
    Tables(const py::sequence& given, const Bytes* places) {
        if (places != nullptr && places->span().bytes != static_cast<int64_t>(given.size()) * 24)
            throw std::invalid_argument("fastfid._C: the addresses are not [tables, 3] of 64 bits");
        held_.reserve(3 * given.size());
        for (size_t i = 0; i < given.size(); ++i) {
            const py::sequence table = given[i];
            if (table.size() != 5) throw std::invalid_argument("fastfid._C: a table has five entries");
            for (size_t part = 0; part < 3; ++part) held_.push_back(std::make_unique<Bytes>(py::object(table[part])));
            const Span first = held_[3 * i]->span(), count = held_[3 * i + 1]->span(), weights = held_[3 * i + 2]->span();
            const void* const* at = places == nullptr ? nullptr : reinterpret_cast<void**>(places->span().begin) + 3 * i;
            spans.push_back({first, count, weights, integer(table[3]), integer(table[4]), at ? at[0] : first.begin,
                             at ? at[1] : count.begin, at ? at[2] : weights.begin});
        }
    }
    std::vector<TableSpans> spans;

   private:
    std::vector<std::unique_ptr<Bytes>> held_;
};

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "Compiled core of fastfid; reach it through fastfid.runtime.native.";
    module.attr("interface") = 4;  // fastfid/runtime/native.py refuses a module built from other sources
    module.def("build_info", &build_info, "What this module was built with, and the CPU levels that run here.");
    module.def(
        "resample_cpu",
        [](const py::object& pixels, const py::object& begin, const py::object& images, const py::sequence& tables,
           const py::object& out, const py::tuple& shared, const py::object& threads, const std::string& level) {
            const Bytes source(pixels), geometry(images), output(out, true);
            const Tables known(tables, nullptr);
            const int64_t count = geometry.span().bytes / (8 * kImageWords);
            const Plan plan = plan_of(shared, output.span(), count);
            const auto jobs = checked_jobs(plan, source.span(), integer(begin), geometry.span(), known.spans);
            const int most = static_cast<int>(std::clamp<int64_t>(integer(threads), 1, 4096));
            const py::gil_scoped_release free;
            resample_cpu(jobs.data(), static_cast<int64_t>(jobs.size()), plan, most, level.c_str());
        },
        "Resample images: pixels and out are the whole memory they lie in, images is int64 [n, 8] (border.h).");
    module.def(
        "resample_blocks",
        [](const py::object& pixels, const py::object& begin, const py::object& images, const py::sequence& tables,
           const py::object& out, const py::tuple& shared) {
            const Bytes source(pixels), geometry(images), output(out, true);
            const Tables known(tables, nullptr);
            const Plan plan = plan_of(shared, output.span(), geometry.span().bytes / (8 * kImageWords));
            const auto jobs = checked_jobs(plan, source.span(), integer(begin), geometry.span(), known.spans);
            resample_blocks(jobs.data(), static_cast<int64_t>(jobs.size()), plan);
        },
        "As resample_cpu, by the blocks of the CUDA kernel run on the CPU; for tests.");
    module.def(
        "jobs",
        [](const py::tuple& pixels, const py::object& begin, const py::object& images, const py::sequence& tables,
           const py::object& places, const py::tuple& out, const py::tuple& shared) {
            const Bytes geometry(images), addresses(places);
            const Tables known(tables, &addresses);
            const Plan plan = plan_of(shared, on_device(out), geometry.span().bytes / (8 * kImageWords));
            const auto jobs = checked_jobs(plan, on_device(pixels), integer(begin), geometry.span(), known.spans);
            return py::bytes(reinterpret_cast<const char*>(jobs.data()), jobs.size() * sizeof(Job));
        },
        "The checked Job records (resample.h) of images in GPU memory, for resample_cuda.");
#if FASTFID_WITH_CUDA
    module.def(
        "resample_cuda",
        [](const py::object& records, uintptr_t uploaded, int64_t step, const py::tuple& out, const py::tuple& shared,
           int device, uintptr_t stream) {
            const Bytes jobs(records);
            const int64_t count = jobs.span().bytes / static_cast<int64_t>(sizeof(Job));
            if (count == 0) return;
            resample_cuda(reinterpret_cast<const Job*>(uploaded), *reinterpret_cast<const Job*>(jobs.span().begin), step,
                          count, plan_of(shared, on_device(out), count), device, reinterpret_cast<void*>(stream));
        },
        "Enqueue the resampling of what `jobs` returned on a CUDA stream. `uploaded`: the records in device memory, or "
        "0 where image i is the first record with its data moved on by i * step bytes.");
#endif
}
