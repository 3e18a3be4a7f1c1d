// The CUDA kernel's block, written so that a CPU can run it too: every phase between two barriers is one function of
// the thread number. resample_cuda.cu calls the phases with __syncthreads between them; resample_blocks.cpp calls each
// for all thread numbers in turn, which lets a machine without a GPU test the very indexing and arithmetic of the GPU.
//
// A block makes a tile of kWidth × kHeight output pixels, all channels:
//   for every kRows source rows that the tile needs:
//     horizontal   source pixels → shared[row][x · C + c]    (uint8 read as aligned 32-bit words; weights in registers)
//     vertical     shared rows   → sums in registers          (four neighbouring values per thread and load)
//   stage          sums          → shared[y][x · C + c]
//   write          shared        → clamp, affine, output      (in the order of the output's memory)
// Sums pass from one set of rows to the next in registers, in the order of the taps; so shared memory is of one fixed
// size whatever the ratio, and the result has the bits of the CPU code.
#pragma once

#include "resample.h"

namespace fastfid {

// Loops whose length is data stay loops: unrolled, their addresses would fill the registers.
#if defined(__CUDACC__)
#define FASTFID_KEEP_LOOP _Pragma("unroll 1")
#else
#define FASTFID_KEEP_LOOP
#endif

constexpr int kThreads = 256;

// Which tile of which image.
struct Place {
    int64_t index;
    int x0, y0, width, height;  // width and height are less than a tile's at the right and lower edge
};

template <int C>
struct TileShape {
    static constexpr int kWidth = C == 1 ? 64 : 32;
    static constexpr int kHeight = 32;
    static constexpr int kRun = kWidth * C;                         // values in a row of shared memory
    static constexpr int kGroups = kRun / 4;                        // four values each
    static constexpr int kMine = kGroups * kHeight / kThreads;      // groups per thread
    static constexpr int kRows = 64;                                // source rows in shared memory
    static constexpr int kStep = kThreads / kWidth;                 // rows that all threads make at once
    static_assert(kGroups * kHeight % kThreads == 0 && kHeight <= kRows, "every thread has the same number of groups");
};

template <bool Q>
struct SumOf {
    static constexpr bool quantize = Q;
    using type = float;
};
template <>
struct SumOf<true> {
    static constexpr bool quantize = true;
    using type = int32_t;
};

FASTFID_BOTH float multiply_add(float weight, float pixel, float sum) { return fmaf(weight, pixel, sum); }
FASTFID_BOTH int32_t multiply_add(int32_t weight, int32_t pixel, int32_t sum) { return weight * pixel + sum; }

// Aligned word `index` of the bytes below `end` that follow `aligned`, 0 where it holds none of them.
FASTFID_BOTH uint32_t word_of(const uint8_t* aligned, int index, int end) {
    if (4 * index >= end) return 0u;
#if defined(__CUDA_ARCH__)
    return __ldg(reinterpret_cast<const uint32_t*>(aligned) + index);
#else
    uint32_t word;
    memcpy(&word, aligned + 4 * static_cast<int64_t>(index), 4);
    return word;
#endif
}

FASTFID_BOTH uint32_t shifted(uint32_t low, uint32_t high, int bits) {
#if defined(__CUDA_ARCH__)
    return __funnelshift_r(low, high, bits);
#else
    return bits == 0 ? low : (low >> bits) | (high << (32 - bits));
#endif
}

// Four neighbours at a 16-byte boundary, in one load or store on the GPU.
template <class T>
FASTFID_BOTH void load4(const T* from, T* to) {
#if defined(__CUDA_ARCH__)
    const int4 four = *reinterpret_cast<const int4*>(from);
    memcpy(to, &four, 16);
#else
    memcpy(to, from, 16);
#endif
}

template <class T>
FASTFID_BOTH void store4(T* to, const T* from) {
#if defined(__CUDA_ARCH__)
    int4 four;
    memcpy(&four, from, 16);
    *reinterpret_cast<int4*>(to) = four;
#else
    memcpy(to, from, 16);
#endif
}

// Rows of one set: either the rows from `top` on, or, where the tile uses few of the rows it spans, `per` rows for
// every output row ("gathered": sampling filters that skip most of a large image).
struct RowSet {
    int64_t top;
    int count;
    int per;  // 0: consecutive rows
};

template <class P, int C, bool Q>
struct Tile : TileShape<C> {
    using S = TileShape<C>;
    using Sum = typename SumOf<Q>::type;
    static constexpr int kBatch = 2;  // source rows per thread and turn: they share the weights

    struct Shared {
        Sum run[S::kRows * S::kRun];
    };
    struct Mine {
        Sum sum[S::kMine][4];
    };

    FASTFID_BOTH Sum half() { return Q ? static_cast<Sum>(1 << (kFractionBits - 1)) : static_cast<Sum>(0); }
    FASTFID_BOTH Sum close(Sum sum) { return Q ? static_cast<Sum>(clip8(static_cast<int32_t>(sum))) : sum; }

    FASTFID_BOTH int64_t tiles(const Output& out) {
        return ((out.width + S::kWidth - 1) / S::kWidth) * ((out.height + S::kHeight - 1) / S::kHeight);
    }

    FASTFID_BOTH Place place_of(int64_t block, const Output& out) {
        const int64_t across = (out.width + S::kWidth - 1) / S::kWidth, down = (out.height + S::kHeight - 1) / S::kHeight;
        Place place;
        place.index = block / (across * down);
        const int64_t tile = block % (across * down);
        place.x0 = static_cast<int>(tile % across) * S::kWidth;
        place.y0 = static_cast<int>(tile / across) * S::kHeight;
        place.width = static_cast<int>(out.width - place.x0 < S::kWidth ? out.width - place.x0 : S::kWidth);
        place.height = static_cast<int>(out.height - place.y0 < S::kHeight ? out.height - place.y0 : S::kHeight);
        return place;
    }

    // The first set of rows, and whether one gathered set is shorter than the consecutive ones.
    FASTFID_BOTH RowSet first_set(const Job& job, const Place& place, int64_t* end) {
        const int last = place.y0 + place.height - 1;
        const int64_t top = job.y.first[place.y0];
        *end = static_cast<int64_t>(job.y.first[last]) + job.y.count[last];
        const int64_t span = *end - top, gathered = place.height * job.y.longest;
        if (gathered <= S::kRows && gathered < span) return {top, static_cast<int>(gathered), static_cast<int>(job.y.longest)};
        return {top, static_cast<int>(span < S::kRows ? span : S::kRows), 0};
    }

    FASTFID_BOTH bool next_set(RowSet* set, int64_t end) {
        set->top += set->count;
        if (set->per != 0 || set->top >= end) return false;
        set->count = static_cast<int>(end - set->top < S::kRows ? end - set->top : S::kRows);
        return true;
    }

    FASTFID_BOTH int64_t source_row(const Job& job, const Place& place, const RowSet& set, int slot) {
        if (set.per == 0) return set.top + slot;
        const int y = place.y0 + slot / set.per, k = slot % set.per, count = job.y.count[y];
        return job.y.first[y] + (k < count ? k : count - 1);
    }

    FASTFID_BOTH void begin(Mine& mine) {
        for (int m = 0; m < S::kMine; ++m)
            for (int j = 0; j < 4; ++j) mine.sum[m][j] = half();
    }

    FASTFID_BOTH void horizontal(int thread, const Job& job, const Place& place, const RowSet& set,
                                        Shared& shared) {
        const int x = thread % S::kWidth;
        if (x >= place.width) return;
        const int64_t column = place.x0 + x;
        const int64_t first = job.x.first[column];
        const int count = job.x.count[column];
        const Sum* weight = static_cast<const Sum*>(job.x.weights) + column * job.x.taps;
        const bool packed = sizeof(P) == 1 && job.stride_w == C && (C == 1 || job.stride_c == 1);
        FASTFID_KEEP_LOOP
        for (int begin = thread / S::kWidth; begin < set.count; begin += kBatch * S::kStep) {
            Sum sum[kBatch][C];
            const P* row[kBatch];
            bool words = packed;  // whole words may be read: they end inside the image's memory
            for (int i = 0; i < kBatch; ++i) {
                const int slot = begin + i * S::kStep;
                const int64_t y = source_row(job, place, set, slot < set.count ? slot : set.count - 1);
                row[i] = static_cast<const P*>(job.data) + y * job.stride_h + first * job.stride_w;
                words = words &&
                        reinterpret_cast<const char*>(row[i] + count * C) + 3 <= static_cast<const char*>(job.end);
                for (int c = 0; c < C; ++c) sum[i][c] = half();
            }
            if (words) {
                packed_taps(reinterpret_cast<const uint8_t* const*>(row), count, weight, sum);
            } else {
                FASTFID_KEEP_LOOP
                for (int k = 0; k < count; ++k)
                    for (int i = 0; i < kBatch; ++i)
                        for (int c = 0; c < C; ++c)
                            sum[i][c] = multiply_add(
                                weight[k], static_cast<Sum>(row[i][k * job.stride_w + c * job.stride_c]), sum[i][c]);
            }
            for (int i = 0; i < kBatch; ++i) {
                const int slot = begin + i * S::kStep;
                if (slot < set.count)
                    for (int c = 0; c < C; ++c) shared.run[slot * S::kRun + x * C + c] = close(sum[i][c]);
            }
        }
    }

    // Four taps (C words) per turn; a table's rows are padded with zero weights to a multiple of four.
    FASTFID_BOTH void packed_taps(const uint8_t* const* row, int count, const Sum* weight, Sum (*sum)[C]) {
        uint32_t carried[kBatch];
        for (int i = 0; i < kBatch; ++i) {
            const int skipped = static_cast<int>(reinterpret_cast<uintptr_t>(row[i]) & 3);
            carried[i] = word_of(row[i] - skipped, 0, skipped + count * C);
        }
        FASTFID_KEEP_LOOP
        for (int k = 0; k < count; k += 4, weight += 4) {
            Sum w[4];
            load4(weight, w);
            for (int i = 0; i < kBatch; ++i) {
                const int skipped = static_cast<int>(reinterpret_cast<uintptr_t>(row[i]) & 3);
                for (int j = 0; j < C; ++j) {
                    const uint32_t next = word_of(row[i] - skipped, k * C / 4 + j + 1, skipped + count * C);
                    const uint32_t bytes = shifted(carried[i], next, 8 * skipped);
                    carried[i] = next;
                    for (int b = 0; b < 4; ++b)
                        sum[i][(4 * j + b) % C] =
                            multiply_add(w[(4 * j + b) / C], static_cast<Sum>((bytes >> (8 * b)) & 255u),
                                         sum[i][(4 * j + b) % C]);
                }
            }
        }
    }

    FASTFID_BOTH void vertical(int thread, const Job& job, const Place& place, const RowSet& set,
                                      const Shared& shared, Mine& mine) {
        for (int m = 0; m < S::kMine; ++m) {
            const int group = thread + m * kThreads;
            const int y = group / S::kGroups, e = group % S::kGroups * 4;
            if (y >= place.height || e >= place.width * C) continue;
            const int64_t row = place.y0 + y;
            const int64_t first = job.y.first[row];
            const Sum* weight = static_cast<const Sum*>(job.y.weights) + row * job.y.taps;
            int begin = 0, end = job.y.count[row], slot = y * set.per;
            if (set.per == 0) {
                begin = static_cast<int>(set.top > first ? set.top - first : 0);
                end = static_cast<int>(set.top + set.count - first < end ? set.top + set.count - first : end);
                slot = static_cast<int>(first + begin - set.top);
            }
            const Sum* from = shared.run + slot * S::kRun + e;
            for (int k = begin; k < end; ++k, from += S::kRun) {
                Sum value[4];
                load4(from, value);
                for (int j = 0; j < 4; ++j) mine.sum[m][j] = multiply_add(weight[k], value[j], mine.sum[m][j]);
            }
        }
    }

    FASTFID_BOTH void stage(int thread, Shared& shared, const Mine& mine) {
        for (int m = 0; m < S::kMine; ++m) {
            const int group = thread + m * kThreads;
            Sum closed[4];
            for (int j = 0; j < 4; ++j) closed[j] = close(mine.sum[m][j]);
            store4(shared.run + group / S::kGroups * S::kRun + group % S::kGroups * 4, closed);
        }
    }

    // A warp writes whole rows of the tile, its lanes neighbouring values; what depends on the lane alone comes first.
    FASTFID_BOTH void write(int thread, const Plan& plan, const Place& place, const Shared& shared) {
        constexpr int kTurns = S::kRun / 32;
        const Output& out = plan.output;
        const bool planar = C > 1 && out.stride_w == 1;
        int from[kTurns];
        int64_t to[kTurns];
        float scale[kTurns], bias[kTurns];
        for (int turn = 0; turn < kTurns; ++turn) {
            const int e = thread % 32 + 32 * turn;
            const int c = planar ? e / S::kWidth : e % C, x = planar ? e % S::kWidth : e / C;
            from[turn] = x < place.width ? x * C + c : -1;
            to[turn] = place.index * out.stride_n + place.y0 * out.stride_h + c * out.stride_c +
                       (place.x0 + x) * out.stride_w;
            scale[turn] = plan.finish.scale[c];
            bias[turn] = plan.finish.bias[c];
        }
        FASTFID_KEEP_LOOP
        for (int y = thread / 32; y < place.height; y += kThreads / 32)
            for (int turn = 0; turn < kTurns; ++turn)
                if (from[turn] >= 0)
                    store(out, to[turn] + y * out.stride_h,
                          finish(static_cast<float>(shared.run[y * S::kRun + from[turn]]), plan.finish.low,
                                 plan.finish.high, scale[turn], bias[turn]));
    }

    FASTFID_BOTH void store(const Output& out, int64_t at, float value) {
        if (out.dtype == Store::kFloat32) {
            static_cast<float*>(out.data)[at] = value;
        } else if (out.dtype == Store::kFloat16) {
            static_cast<uint16_t*>(out.data)[at] = to_float16(value);
        } else if (out.dtype == Store::kBfloat16) {
            static_cast<uint16_t*>(out.data)[at] = to_bfloat16(value);
        } else {
            static_cast<uint8_t*>(out.data)[at] = static_cast<uint8_t>(value);
        }
    }
};

// Calls run(Tile<…>{}) with the tile that serves a plan.
template <class Run>
static inline void with_tile(const Plan& plan, Run&& run) {
    const auto by_channels = [&](auto pixel, auto quantize) {
        using P = decltype(pixel);
        constexpr bool Q = decltype(quantize)::quantize;
        if (plan.channels == 1) {
            run(Tile<P, 1, Q>{});
        } else if (plan.channels == 3) {
            run(Tile<P, 3, Q>{});
        } else {
            run(Tile<P, 4, Q>{});
        }
    };
    if (plan.pixel == Pixel::kFloat32) {
        by_channels(float{}, SumOf<false>{});
    } else if (plan.quantize) {
        by_channels(uint8_t{}, SumOf<true>{});
    } else {
        by_channels(uint8_t{}, SumOf<false>{});
    }
}

}  // namespace fastfid
