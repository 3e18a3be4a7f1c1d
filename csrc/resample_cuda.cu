// The CUDA resampler: one launch for a whole batch, uniform or ragged. The block's work is in resample_tile.h.
//
// Bytes: every source byte is read from DRAM once (neighbouring tiles share a few columns and rows through L1/L2), every
// output value is written once. Shared memory is 64 rows of a tile whatever the ratio: 24 KiB for RGB, 32 KiB for four
// channels, 16 KiB for one.
#include "resample_cuda.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "resample_tile.h"

namespace fastfid {
namespace {

template <class Tile>
__global__ void __launch_bounds__(kThreads, 4)
    resample_kernel(const Job* __restrict__ jobs, const __grid_constant__ Job same, int64_t step,
                    const __grid_constant__ Plan plan) {
    __shared__ __align__(16) typename Tile::Shared shared;
    __shared__ Job job;  // read where it is needed instead of held in 32 registers
    typename Tile::Mine mine;
    const int thread = threadIdx.x;
    const Place place = Tile::place_of(blockIdx.x, plan.output);
    if (thread == 0) {
        job = jobs != nullptr ? jobs[place.index] : same;
        if (jobs == nullptr) job.data = static_cast<const char*>(job.data) + place.index * step;
    }
    Tile::begin(mine);
    __syncthreads();
    int64_t end;
    RowSet set = Tile::first_set(job, place, &end);
    do {
        Tile::horizontal(thread, job, place, set, shared);
        __syncthreads();
        Tile::vertical(thread, job, place, set, shared, mine);
        __syncthreads();
    } while (Tile::next_set(&set, end));
    Tile::stage(thread, shared, mine);
    __syncthreads();
    Tile::write(thread, plan, place, shared);
}

void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("fastfid: ") + what + ": " + cudaGetErrorString(error));
}

}  // namespace

void resample_cuda(const Job* jobs, const Job& job, int64_t step, int64_t count, const Plan& plan, int device,
                   void* stream) {
    if (count == 0 || plan.output.width == 0 || plan.output.height == 0) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    with_tile(plan, [&](auto tile) {
        using T = decltype(tile);
        const int64_t blocks = count * T::tiles(plan.output);
        if (blocks > 0x7fffffff) throw std::runtime_error("fastfid: the batch has more than 2^31 tiles; pass it in parts");
        resample_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            jobs, job, step, plan);
    });
    check(cudaGetLastError(), "launch of resample_kernel");
}

}  // namespace fastfid
