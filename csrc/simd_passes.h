// The two passes of the CPU resampler over vectors of one instruction set; included only by resample_simd.cpp.
#pragma once

#include "simd_vectors.h"

namespace fastfid {
namespace {

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

// The uint8 contract multiplies 8-bit pixels with weights of up to 24 bits. Two taps at a time, with the weight split
// into w = high·2^11 + low, both parts fit the 16-bit multiply-add of every CPU, exactly.
constexpr int kSplit = 11;
struct Packed {
    int32_t high, low;  // tap k in the low 16 bits of each, tap k + 1 in the high 16 bits
};

// Columns lie as vectors of kRows rows: column c (from c0), channel k at (c · column + k · channel) vectors.
struct Steps {
    int64_t column, channel;
};

// ---- pass 2: horizontal -------------------------------------------------------------------------------------------

// Output columns [x0, x1) of kRows rows → chunk, likewise in vectors of kRows rows.
template <int C>
static void horizontal_float(const Axis& axis, const float* columns, Steps from, int64_t c0, int64_t x0, int64_t x1,
                             Steps to, float* chunk) {
    const int64_t next = from.column * kRows;
    for (int64_t x = x0; x < x1; ++x) {
        const float* weight = static_cast<const float*>(axis.weights) + x * axis.taps;
        const float* at = columns + (axis.first[x] - c0) * next;
        const int count = axis.count[x];
        vfloat sum[C];
        for (int c = 0; c < C; ++c) sum[c] = vfloat{};
        for (int k = 0; k < count; ++k, at += next) {
            const vfloat w = broadcast(weight[k]);
            for (int c = 0; c < C; ++c)
                sum[c] = multiply_add(w, load<vfloat>(at + c * from.channel * kRows), sum[c]);
        }
        for (int c = 0; c < C; ++c) store(chunk + ((x - x0) * to.column + c * to.channel) * kRows, sum[c]);
    }
}

static void bytes_to_floats(const uint8_t* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) store(to + i * kLanes, to_float(widen(from + i * kLanes)));
}

static inline Packed pack(int32_t a, int32_t b) {
    const int32_t mask = (1 << kSplit) - 1;
    return {(int32_t)(((uint32_t)(b >> kSplit) << 16) | ((uint32_t)(a >> kSplit) & 0xffffu)),
            (int32_t)(((uint32_t)(b & mask) << 16) | (uint32_t)(a & mask))};
}

static inline vint shift_sum(vint high, vint low) {
    return ((high << kSplit) + low + broadcast(1 << (kFractionBits - 1))) >> kFractionBits;
}

// The taps of output i in pairs; `odd` puts a zero weight before the first.
static void pack_taps(const Axis& axis, int64_t i, int odd, int64_t pairs, Packed* packed) {
    const int32_t* weight = static_cast<const int32_t*>(axis.weights) + i * axis.taps;
    const int count = axis.count[i];
    for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t k = 2 * pair - odd;
        packed[pair] = pack(k >= 0 && k < count ? weight[k] : 0, k + 1 < count ? weight[k + 1] : 0);
    }
}

// Byte columns, two neighbours at a time → 32-bit lanes that hold both as 16-bit numbers.
static void make_pairs(const uint8_t* bytes, int64_t count, int channels, Steps steps, int32_t* pairs) {
    for (int64_t q = 0; q < count; ++q)
        for (int c = 0; c < channels; ++c) {
            const uint8_t* even = bytes + (2 * q * steps.column + c * steps.channel) * kRows;
            const vint a = widen(even), b = widen(even + steps.column * kRows);
            store(pairs + (q * steps.column + c * steps.channel) * kRows, a | (b << 16));
        }
}

template <int C>
static void horizontal_fixed(const Axis& axis, const Packed* packed, int64_t pairs_x, const int32_t* pairs, Steps from,
                             int64_t c0, int64_t x0, int64_t x1, Steps to, uint8_t* chunk) {
    const int64_t next = from.column * kRows;
    for (int64_t x = x0; x < x1; ++x) {
        const Packed* weight = packed + x * pairs_x;
        const int32_t* at = pairs + ((axis.first[x] - c0) / 2) * next;
        const int count = ((axis.first[x] & 1) + axis.count[x] + 1) / 2;
        vint high[C], low[C];
        for (int c = 0; c < C; ++c) high[c] = low[c] = vint{};
        for (int k = 0; k < count; ++k, at += next) {
            const vint wh = broadcast(weight[k].high), wl = broadcast(weight[k].low);
            for (int c = 0; c < C; ++c) {
                const vint p = load<vint>(at + c * from.channel * kRows);
                high[c] = add_pairs(high[c], p, wh);
                low[c] = add_pairs(low[c], p, wl);
            }
        }
        for (int c = 0; c < C; ++c)
            narrow(chunk + ((x - x0) * to.column + c * to.channel) * kRows, limit(shift_sum(high[c], low[c]), 0, 255));
    }
}

// ---- pass 3: back to rows -----------------------------------------------------------------------------------------

// chunk[count][kRows] → rows[r][at .. at + count), in whole vectors (the padding of a row takes the rest).
static void rows_of_floats(const float* chunk, int64_t count, float* const* rows, int64_t at) {
    for (int64_t i = 0; i < count; i += kLanes) {
        vfloat v[kLanes];
        for (int j = 0; j < kLanes; ++j) v[j] = load<vfloat>(chunk + (i + j) * kRows);
        transpose_floats(v);
        for (int r = 0; r < kRows; ++r) store(rows[r] + at + i, v[r]);
    }
}

static void rows_of_bytes(const uint8_t* chunk, int64_t count, uint8_t* const* rows, int64_t at) {
    for (int64_t i = 0; i < count; i += 16) {
        byte16 v[kRows];
        for (int j = 0; j < kRows; ++j) v[j] = load<byte16>(chunk + i * kRows + 16 * j);
        shuffle_bytes(v, 4);
        for (int r = 0; r < kRows; ++r) store(rows[r] + at + i, v[r]);
    }
}

// ---- pass 4: vertical, clamp, affine, store -----------------------------------------------------------------------

constexpr int kBlock = 4;  // vectors per turn of the vertical pass

template <Store dtype>
static inline void store_as(char* to, int64_t at, vfloat value) {
    if (dtype == Store::kFloat32) {
        store(to + 4 * at, value);
    } else if (dtype == Store::kBfloat16) {
#if defined(__AVX512F__)
        const __m512i bits = (__m512i)value, odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        const __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
        const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        _mm256_storeu_si256((__m256i*)(to + 2 * at), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
#else
        for (int i = 0; i < kLanes; ++i) store(to + 2 * (at + i), to_bfloat16(value[i]));
#endif
    } else {
#if defined(__AVX512F__)
        _mm256_storeu_si256((__m256i*)(to + 2 * at),
                            _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
        _mm_storeu_si128((__m128i*)(to + 2 * at), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#else
        for (int i = 0; i < kLanes; ++i) store(to + 2 * (at + i), to_float16(value[i]));
#endif
    }
}

static const int kStoreBytes[4] = {4, 2, 2, 1};

// The taps of one output row: where its source rows are, and their weights in the form the contract uses.
struct FloatTaps {
    const float* const* rows;
    const float* weight;
    int count;
    int64_t at;  // element at which the run begins in every row

    inline void sum(int64_t e, vfloat* sums) const {
        for (int i = 0; i < kBlock; ++i) sums[i] = vfloat{};
        for (int k = 0; k < count; ++k) {
            const vfloat w = broadcast(weight[k]);
            const float* row = rows[k] + at + e;
            for (int i = 0; i < kBlock; ++i) sums[i] = multiply_add(w, load<vfloat>(row + i * kLanes), sums[i]);
        }
    }
};

struct FixedTaps {
    const uint8_t* const* rows;
    const Packed* weight;
    int count;
    int64_t at;

    // kBlock · kLanes results, as the bytes that they are.
    inline void bytes(int64_t e, uint8_t* results) const {
        vint high[kBlock], low[kBlock];
        for (int i = 0; i < kBlock; ++i) high[i] = low[i] = vint{};
        for (int k = 0; k < count; k += 2) {
            const vint wh = broadcast(weight[k / 2].high), wl = broadcast(weight[k / 2].low);
            const uint8_t *a = rows[k] + at + e, *b = rows[k + 1] + at + e;
            vint p[kBlock];
#if defined(FASTFID_PLAIN_BYTES)
            for (int i = 0; i < kBlock; ++i) p[i] = widen(a + i * kLanes) | (widen(b + i * kLanes) << 16);
#else
            const wide zero{}, first = load_wide(a), second = load_wide(b);
            const wide left = unpack_low(first, second), right = unpack_high(first, second);
            p[0] = (vint)unpack_low(left, zero), p[1] = (vint)unpack_high(left, zero);
            p[2] = (vint)unpack_low(right, zero), p[3] = (vint)unpack_high(right, zero);
#endif
            for (int i = 0; i < kBlock; ++i) {
                high[i] = add_pairs(high[i], p[i], wh);
                low[i] = add_pairs(low[i], p[i], wl);
            }
        }
        for (int i = 0; i < kBlock; ++i) high[i] = shift_sum(high[i], low[i]);
#if defined(FASTFID_PLAIN_BYTES)
        for (int i = 0; i < kBlock; ++i) narrow(results + i * kLanes, limit(high[i], 0, 255));
#else
        store_wide(results, pack(high[0], high[1], high[2], high[3]));
#endif
    }

    inline void sum(int64_t e, vfloat* sums) const {
        uint8_t results[kBlock * kLanes];
        bytes(e, results);
        for (int i = 0; i < kBlock; ++i) sums[i] = to_float(widen(results + i * kLanes));
    }
};

// One run of `length` output values, kBlock vectors at a time. Intermediate rows are padded, so whole blocks may be read;
// a partial last block is written through a small buffer.
template <Store dtype, class Taps>
static void run_of(const Finish& finish, const Taps& taps, const float* scale, const float* bias, int64_t length,
                   char* to) {
    constexpr int64_t kValues = kBlock * kLanes;
    const vfloat low = broadcast(finish.low), high = broadcast(finish.high);
    const auto block = [&](int64_t e, char* here) {
        vfloat sums[kBlock];
        taps.sum(e, sums);
        for (int i = 0; i < kBlock; ++i) {
            vfloat v = sums[i] < low ? low : sums[i];
            v = v > high ? high : v;
            const int64_t lane = e + i * kLanes;
            store_as<dtype>(here, i * kLanes, multiply_add(v, load<vfloat>(scale + lane), load<vfloat>(bias + lane)));
        }
    };
    int64_t e = 0;
    for (; e + kValues <= length; e += kValues) block(e, to + e * kStoreBytes[(int)dtype]);
    if (e == length) return;
    char last[4 * kValues];
    block(e, last);
    memcpy(to + e * kStoreBytes[(int)dtype], last, (length - e) * kStoreBytes[(int)dtype]);
}

// Bytes in, bytes out: nothing is clamped or scaled.
static void run_of_bytes(const FixedTaps& taps, int64_t length, char* to) {
    constexpr int64_t kValues = kBlock * kLanes;
    int64_t e = 0;
    for (; e + kValues <= length; e += kValues) taps.bytes(e, reinterpret_cast<uint8_t*>(to) + e);
    if (e == length) return;
    uint8_t last[kValues];
    taps.bytes(e, last);
    memcpy(to + e, last, length - e);
}

template <class Taps>
static void vertical(const Plan& plan, const Taps& taps, const float* scale, const float* bias, int64_t length,
                     char* to) {
    switch (plan.output.dtype) {
        case Store::kFloat32: return run_of<Store::kFloat32>(plan.finish, taps, scale, bias, length, to);
        case Store::kFloat16: return run_of<Store::kFloat16>(plan.finish, taps, scale, bias, length, to);
        case Store::kBfloat16: return run_of<Store::kBfloat16>(plan.finish, taps, scale, bias, length, to);
        case Store::kUint8: break;  // only of bytes
    }
}

}  // namespace
}  // namespace fastfid
