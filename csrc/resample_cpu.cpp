// Threads over a batch, and the choice of instruction set at run time.
//
// Threads are started per call and joined before it returns: nothing outlives a call, so a forked child (a DataLoader
// worker) finds nothing broken, and starting one costs about as much as resizing a tenth of an image.
#include "resample_cpu.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fastfid {

extern const Level kLevel_baseline;
#if defined(__x86_64__)
extern const Level kLevel_avx2;
extern const Level kLevel_avx512;
#endif

namespace {

constexpr int64_t kValuesPerThread = 1 << 18;  // about 0.1 ms, several times what starting a thread costs

std::vector<const Level*> usable_levels() {
    std::vector<const Level*> levels;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // F16C is older than AVX2
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        levels.push_back(&kLevel_avx512);
    if (avx2) levels.push_back(&kLevel_avx2);
#endif
    levels.push_back(&kLevel_baseline);
    return levels;
}

const std::vector<const Level*>& levels() {
    static const std::vector<const Level*> found = usable_levels();
    return found;
}

const Level& level_named(const std::string& name) {
    if (name.empty()) return *levels().front();
    for (const Level* level : levels())
        if (name == level->name) return *level;
    throw std::runtime_error("this CPU or this build has no level '" + name + "'; it has " + cpu_levels());
}

class Scratch {
   public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(memory_); }
    void* at_least(size_t bytes) {
        if (bytes > size_) {
            std::free(memory_);
            size_ = 0;
            memory_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
            if (memory_ == nullptr) throw std::bad_alloc();
            size_ = bytes;
        }
        return memory_;
    }

   private:
    void* memory_ = nullptr;
    size_t size_ = 0;
};

}  // namespace

const char* cpu_levels() {
    static const std::string names = [] {
        std::string joined;
        for (const Level* level : levels()) joined += (joined.empty() ? "" : ";") + std::string(level->name);
        return joined;
    }();
    return names.c_str();
}

void resample_cpu(const Job* jobs, int64_t count, const Plan& plan, int threads, const char* name) {
    const Level& level = level_named(name);
    const int64_t height = plan.output.height;
    if (count == 0 || height == 0 || plan.output.width == 0) return;
    // No more threads than there is work for; whole images where there are enough of them, else bands of rows (a band
    // computes a few source rows anew).
    double values = static_cast<double>(count) * height * plan.output.width;  // a product that may exceed 64 bits
    for (int64_t i = 0; i < count; ++i) values += static_cast<double>(jobs[i].height) * jobs[i].width;
    const double most = std::max(threads, 1);
    const auto wanted = static_cast<int64_t>(std::clamp(values * plan.channels / kValuesPerThread, 1.0, most));
    const int64_t bands = count >= wanted ? 1 : std::min<int64_t>((wanted + count - 1) / count, (height + 15) / 16);
    const int64_t tasks = count * bands;
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_lock;

    auto work = [&] {
        try {
            Scratch scratch;
            for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
                const int64_t index = task / bands, band = task % bands;
                void* memory = scratch.at_least(level.scratch_bytes(jobs[index], plan));
                level.rows(jobs[index], plan, index, height * band / bands, height * (band + 1) / bands, memory);
            }
        } catch (...) {
            const std::lock_guard<std::mutex> hold(failure_lock);
            failure = std::current_exception();
            next.store(tasks);
        }
    };

    std::vector<std::thread> helpers;
    const int64_t extra = std::min(wanted, tasks) - 1;
    helpers.reserve(static_cast<size_t>(extra));
    for (int64_t i = 0; i < extra; ++i) {
        try {
            helpers.emplace_back(work);
        } catch (const std::system_error&) {
            break;  // no further thread to be had; those that run do the work
        }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace fastfid
