// The CPU resampler of one instruction set. Compiled once per level (FASTFID_LEVEL: baseline, avx2, avx512).
//
// How a band of output rows is made, kRows source rows at a time (kRows = lanes of a vector):
//   1. transpose the source rows, so that a vector holds one column (of one channel) of kRows rows;
//   2. horizontal pass: every tap is one multiply-add of such a vector with one weight, whatever the ratio;
//   3. transpose back into a ring of intermediate rows, already in the output's layout (interleaved or planar);
//   4. vertical pass over the ring as soon as the rows of an output row are there, fused with clamp, affine and store.
// The source is read once and never exists as a float image; intermediates stay in the L1/L2 cache.
//
// No standard library templates and no non-static inline functions here: the linker could pick the copy that was
// compiled for a larger instruction set than the CPU has.
#include "resample_cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own intrinsics pass deliberately undefined vectors, about which GCC then warns wherever they are inlined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define FASTFID_JOIN2(a, b) a##b
#define FASTFID_JOIN(a, b) FASTFID_JOIN2(a, b)
#define FASTFID_TEXT2(a) #a
#define FASTFID_TEXT(a) FASTFID_TEXT2(a)

namespace fastfid {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 16;
#elif defined(__AVX2__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kLanes = kRows;
constexpr int64_t kColumnBudget = 64 * 1024;  // bytes of transposed source at once: L1 and a little of L2
constexpr int64_t kChunk = 64;                // output columns made from them at once

// The uint8 contract multiplies 8-bit pixels with weights of up to 24 bits. Two taps at a time, with the weight split
// into w = high·2^11 + low, both parts fit the 16-bit multiply-add of every CPU, exactly.
constexpr int kSplit = 11;
struct Packed {
    int32_t high, low;  // tap k in the low 16 bits of each, tap k + 1 in the high 16 bits
};

typedef float vfloat __attribute__((vector_size(4 * kLanes)));
typedef int32_t vint __attribute__((vector_size(4 * kLanes)));
typedef uint8_t vbyte __attribute__((vector_size(kLanes)));
typedef uint8_t byte16 __attribute__((vector_size(16)));

template <class V>
static inline V load(const void* from) {
    V value;
    memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
static inline void store(void* to, V value) {
    memcpy(to, &value, sizeof(V));
}

static inline vfloat broadcast(float value) { return value - vfloat{}; }
static inline vint broadcast(int32_t value) { return value - vint{}; }

static inline vfloat multiply_add(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vfloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    vfloat sum;  // one rounding, as on every other level, though this CPU may have no instruction for it
    for (int i = 0; i < kLanes; ++i) sum[i] = fmaf(a[i], b[i], c[i]);
    return sum;
#endif
}

// sum + low16(a)·low16(b) + high16(a)·high16(b) per 32-bit lane, signed.
static inline vint add_pairs(vint sum, vint a, vint b) {
#if defined(__AVX512VNNI__)
    return (vint)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (vint)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return sum + (vint)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// kLanes bytes to 32-bit lanes and back (values 0…255). The compilers' own vector conversions go lane by lane.
static inline vint widen(const uint8_t* from) {
#if defined(__AVX512F__)
    return (vint)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
#elif defined(__AVX2__)
    return (vint)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
#elif defined(__SSE2__)
    const __m128i zero = _mm_setzero_si128();
    const __m128i bytes = _mm_cvtsi32_si128(load<int32_t>(from));
    return (vint)_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, zero), zero);
#else
    return __builtin_convertvector(load<vbyte>(from), vint);
#endif
}

static inline void narrow(uint8_t* to, vint values) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)values));
#elif defined(__AVX2__)
    const __m128i low = _mm256_castsi256_si128((__m256i)values), high = _mm256_extracti128_si256((__m256i)values, 1);
    const __m128i words = _mm_packus_epi32(low, high);
    _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
#elif defined(__SSE2__)
    const __m128i words = _mm_packs_epi32((__m128i)values, (__m128i)values);
    store(to, _mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
#else
    store(to, __builtin_convertvector(values, vbyte));
#endif
}

// Byte vectors of the same width as vint, for the vertical pass of the uint8 contract: two rows interleaved within each
// 128-bit part, then widened, give the pairs of 4 · kLanes pixels in four vectors; packing with saturation undoes both.
#if defined(__AVX512F__)
typedef __m512i wide;
static inline wide load_wide(const uint8_t* from) { return _mm512_loadu_si512(from); }
static inline void store_wide(uint8_t* to, wide bytes) { _mm512_storeu_si512(to, bytes); }
static inline wide unpack_low(wide a, wide b) { return _mm512_unpacklo_epi8(a, b); }
static inline wide unpack_high(wide a, wide b) { return _mm512_unpackhi_epi8(a, b); }
static inline wide pack(vint a, vint b, vint c, vint d) {
    return _mm512_packus_epi16(_mm512_packs_epi32((wide)a, (wide)b), _mm512_packs_epi32((wide)c, (wide)d));
}
#elif defined(__AVX2__)
typedef __m256i wide;
static inline wide load_wide(const uint8_t* from) { return _mm256_loadu_si256((const wide*)from); }
static inline void store_wide(uint8_t* to, wide bytes) { _mm256_storeu_si256((wide*)to, bytes); }
static inline wide unpack_low(wide a, wide b) { return _mm256_unpacklo_epi8(a, b); }
static inline wide unpack_high(wide a, wide b) { return _mm256_unpackhi_epi8(a, b); }
static inline wide pack(vint a, vint b, vint c, vint d) {
    return _mm256_packus_epi16(_mm256_packs_epi32((wide)a, (wide)b), _mm256_packs_epi32((wide)c, (wide)d));
}
#elif defined(__SSE2__)
typedef __m128i wide;
static inline wide load_wide(const uint8_t* from) { return _mm_loadu_si128((const wide*)from); }
static inline void store_wide(uint8_t* to, wide bytes) { _mm_storeu_si128((wide*)to, bytes); }
static inline wide unpack_low(wide a, wide b) { return _mm_unpacklo_epi8(a, b); }
static inline wide unpack_high(wide a, wide b) { return _mm_unpackhi_epi8(a, b); }
static inline wide pack(vint a, vint b, vint c, vint d) {
    return _mm_packus_epi16(_mm_packs_epi32((wide)a, (wide)b), _mm_packs_epi32((wide)c, (wide)d));
}
#else
#define FASTFID_PLAIN_BYTES
#endif

static inline vint limit(vint values, int32_t low, int32_t high) {
#if defined(__AVX512F__)
    return (vint)_mm512_min_epi32(_mm512_max_epi32((__m512i)values, _mm512_set1_epi32(low)), _mm512_set1_epi32(high));
#elif defined(__AVX2__)
    return (vint)_mm256_min_epi32(_mm256_max_epi32((__m256i)values, _mm256_set1_epi32(low)), _mm256_set1_epi32(high));
#else
    values = values < low ? broadcast(low) : values;
    return values > high ? broadcast(high) : values;
#endif
}

static inline vfloat to_float(vint values) { return __builtin_convertvector(values, vfloat); }

static inline byte16 zip_low(byte16 a, byte16 b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#else
    return __builtin_shuffle(a, b, (byte16){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
#endif
}

static inline byte16 zip_high(byte16 a, byte16 b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
    return __builtin_shuffle(a, b, (byte16){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#endif
}

// A perfect shuffle moves the top bit of an element's address to the bottom. Over kRows vectors of 16 bytes,
// log2(kRows) of them turn [kRows][16] into [16][kRows]; four of them turn [16][kRows] into [kRows][16].
static inline void shuffle_bytes(byte16* v, int times) {
    for (int stage = 0; stage < times; ++stage) {
        byte16 w[kRows];
        for (int i = 0; i < kRows / 2; ++i) {
            w[2 * i] = zip_low(v[i], v[i + kRows / 2]);
            w[2 * i + 1] = zip_high(v[i], v[i + kRows / 2]);
        }
        for (int i = 0; i < kRows; ++i) v[i] = w[i];
    }
}

constexpr int kStages = kRows == 16 ? 4 : (kRows == 8 ? 3 : 2);

// kLanes × kLanes floats: v[i][j] becomes v[j][i].
static inline void transpose_floats(vfloat* v) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (int stage = 0; stage < 4; ++stage) {
        vfloat w[16];
        for (int i = 0; i < 8; ++i) {
            w[2 * i] = (vfloat)_mm512_permutex2var_ps((__m512)v[i], low, (__m512)v[i + 8]);
            w[2 * i + 1] = (vfloat)_mm512_permutex2var_ps((__m512)v[i], high, (__m512)v[i + 8]);
        }
        for (int i = 0; i < 16; ++i) v[i] = w[i];
    }
#elif defined(__AVX2__)
    __m256 a[8], b[8];
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm256_unpacklo_ps((__m256)v[2 * i], (__m256)v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps((__m256)v[2 * i], (__m256)v[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
        b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
        b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
        b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        v[i] = (vfloat)_mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        v[i + 4] = (vfloat)_mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
#else
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < i; ++j) {
            const float upper = v[j][i];
            v[j][i] = v[i][j];
            v[i][j] = upper;
        }
#endif
}

// ---- where everything lies ---------------------------------------------------------------------------------------

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

// The scratch memory of one task: where each piece begins (bytes), and the sizes that decide it (elements).
struct Shape {
    bool planar_in, planar_out;  // [channel][x] instead of [x][channel], in the source and in the intermediate rows
    int64_t columns;             // most source columns transposed at once
    int64_t plane_in;            // planar source: transposed columns from one channel to the next
    int64_t plane_out, row;      // intermediate rows: elements from one channel to the next, and of a whole row
    int64_t ring;                // intermediate rows held
    int64_t pairs_x, pairs_y;    // uint8 contract: pairs of taps per output
    int64_t bytes_at, columns_at, chunk_at, ring_at, scale_at, bias_at, packed_x_at, packed_y_at, pointers_at, total;
};

static Shape shape_of(const Job& job, const Plan& plan) {
    Shape s;
    const int64_t width = plan.output.width, channels = plan.channels;
    s.planar_in = job.stride_w == 1 && channels > 1;
    s.planar_out = plan.output.stride_w == 1 && channels > 1;
    s.columns = smaller(larger(kColumnBudget / (4 * channels * kRows), 4 * job.x.longest), job.width) + 2;
    s.plane_in = round_up(s.columns, 16) + 16;
    s.plane_out = round_up(width, 64) + 64;
    s.row = s.planar_out ? s.plane_out * channels : round_up(width * channels, 64) + 64;
    s.ring = round_up(job.y.longest + kRows, kRows);
    s.pairs_x = job.x.longest / 2 + 1;
    s.pairs_y = job.y.longest / 2 + 1;
    const int64_t transposed = s.plane_in * channels * kRows;
    s.bytes_at = 0;
    s.columns_at = s.bytes_at + aligned(transposed);
    s.chunk_at = s.columns_at + aligned(4 * transposed);
    s.ring_at = s.chunk_at + aligned(4 * kRows * ((kChunk + 16) * channels + 16));
    s.scale_at = s.ring_at + aligned(s.ring * s.row * 4);
    s.bias_at = s.scale_at + aligned(s.row * 4);
    s.packed_x_at = s.bias_at + aligned(s.row * 4);
    s.packed_y_at = s.packed_x_at + (plan.quantize ? aligned(width * s.pairs_x * sizeof(Packed)) : 0);
    s.pointers_at = s.packed_y_at + (plan.quantize ? aligned(s.pairs_y * sizeof(Packed)) : 0);
    s.total = s.pointers_at + aligned((job.y.longest + 1) * sizeof(void*));
    return s;
}

// ---- pass 1: source columns to vectors of rows -------------------------------------------------------------------

// Columns lie as vectors of kRows rows: column c (from c0), channel k at (c · column + k · channel) vectors.
struct Steps {
    int64_t column, channel;
};

// Bytes [begin, end) of kRows rows → out[byte - begin][kRows]; nothing at or beyond `limit` is read.
static void transpose_bytes(const uint8_t* const* rows, int64_t begin, int64_t end, int64_t limit, uint8_t* out) {
    int64_t at = begin;
    for (; at < end && at + 16 <= limit; at += 16, out += 16 * kRows) {
        byte16 v[kRows];
        for (int r = 0; r < kRows; ++r) v[r] = load<byte16>(rows[r] + at);
        shuffle_bytes(v, kStages);
        for (int r = 0; r < kRows; ++r) store(out + 16 * r, v[r]);
    }
    for (; at < end; ++at, out += kRows)
        for (int r = 0; r < kRows; ++r) out[r] = rows[r][at];
}

// Any strides, any type.
template <class T>
static void gather(const Job& job, int channels, const int64_t* rows, int64_t c0, int64_t c1, Steps steps, T* to) {
    for (int r = 0; r < kRows; ++r) {
        const T* row = static_cast<const T*>(job.data) + rows[r] * job.stride_h;
        for (int64_t c = c0; c < c1; ++c)
            for (int k = 0; k < channels; ++k)
                to[((c - c0) * steps.column + k * steps.channel) * kRows + r] =
                    row[c * job.stride_w + k * job.stride_c];
    }
}

static void byte_columns(const Job& job, int channels, const int64_t* rows, int64_t c0, int64_t c1, Steps steps,
                         uint8_t* to) {
    const uint8_t* start[kRows];
    const uint8_t* base = static_cast<const uint8_t*>(job.data);
    for (int r = 0; r < kRows; ++r) start[r] = base + rows[r] * job.stride_h;
    if (job.stride_w == 1) {
        for (int k = 0; k < channels; ++k) {
            transpose_bytes(start, c0, c1, job.width, to + k * steps.channel * kRows);
            for (int r = 0; r < kRows; ++r) start[r] += job.stride_c;
        }
    } else if (job.stride_w == channels && job.stride_c == 1) {
        transpose_bytes(start, c0 * channels, c1 * channels, job.width * channels, to);
    } else {
        gather(job, channels, rows, c0, c1, steps, to);
    }
}

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

// ---- one band of one image ----------------------------------------------------------------------------------------

// The source rows that output rows need, in order and each once: sampling filters skip most of a large image.
struct Needed {
    const Axis& axis;
    int64_t y, last;  // output row whose taps are being listed, and the last one of the band
    int64_t row;      // next source row to list

    inline int64_t next() {
        while (row >= axis.first[y] + axis.count[y]) {
            if (y == last) return axis.first[y] + axis.count[y] - 1;  // nothing left: fill up with the last one
            ++y;
            row = larger(row, axis.first[y]);
        }
        return row++;
    }
};

// The next kRows needed rows, into ring rows `slot` and onwards.
template <int C>
static void make_rows(const Job& job, const Plan& plan, const Shape& s, char* scratch, Needed& needed, int64_t slot) {
    const int element = plan.quantize ? 1 : 4;
    int64_t source[kRows];
    void* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
        source[r] = needed.next();
        rows[r] = scratch + s.ring_at + (slot + r) * s.row * element;
    }
    uint8_t* bytes = reinterpret_cast<uint8_t*>(scratch + s.bytes_at);
    const Steps from = s.planar_in ? Steps{1, s.plane_in} : Steps{C, 1};
    const int64_t width = plan.output.width;
    for (int64_t x0 = 0, x1; x0 < width; x0 = x1) {
        const int64_t c0 = plan.quantize ? job.x.first[x0] & ~1 : job.x.first[x0];
        int64_t c1 = job.x.first[x0] + job.x.count[x0];
        for (x1 = x0 + 1; x1 < width && x1 - x0 < kChunk; ++x1) {
            const int64_t end = larger(c1, job.x.first[x1] + job.x.count[x1]);
            if (end - c0 > s.columns - 1) break;
            c1 = end;
        }
        const int64_t made = x1 - x0, runs = s.planar_out ? C : 1, run = s.planar_out ? made : made * C;
        const Steps to = s.planar_out ? Steps{1, round_up(made, 16)} : Steps{C, 1};
        if (plan.quantize) {
            byte_columns(job, C, source, c0, c1, from, bytes);
            if ((c1 - c0) % 2 != 0)
                for (int c = 0; c < C; ++c)
                    memset(bytes + ((c1 - c0) * from.column + c * from.channel) * kRows, 0, kRows);
            int32_t* pairs = reinterpret_cast<int32_t*>(scratch + s.columns_at);
            make_pairs(bytes, (c1 - c0 + 1) / 2, C, from, pairs);
            uint8_t* chunk = reinterpret_cast<uint8_t*>(scratch + s.chunk_at);
            horizontal_fixed<C>(job.x, reinterpret_cast<const Packed*>(scratch + s.packed_x_at), s.pairs_x, pairs, from,
                                c0, x0, x1, to, chunk);
            for (int64_t c = 0; c < runs; ++c)
                rows_of_bytes(chunk + c * to.channel * kRows, run, reinterpret_cast<uint8_t* const*>(rows),
                              s.planar_out ? c * s.plane_out + x0 : x0 * C);
        } else {
            float* columns = reinterpret_cast<float*>(scratch + s.columns_at);
            if (plan.pixel == Pixel::kUint8) {
                byte_columns(job, C, source, c0, c1, from, bytes);
                for (int64_t k = 0; k < (s.planar_in ? C : 1); ++k)
                    bytes_to_floats(bytes + k * s.plane_in * kRows, (c1 - c0) * from.column,
                                    columns + k * s.plane_in * kRows);
            } else {
                gather(job, C, source, c0, c1, from, columns);
            }
            float* chunk = reinterpret_cast<float*>(scratch + s.chunk_at);
            horizontal_float<C>(job.x, columns, from, c0, x0, x1, to, chunk);
            for (int64_t c = 0; c < runs; ++c)
                rows_of_floats(chunk + c * to.channel * kRows, run, reinterpret_cast<float* const*>(rows),
                               s.planar_out ? c * s.plane_out + x0 : x0 * C);
        }
    }
}

// scale and bias per element of an intermediate row, so that the last pass need not know the layout.
static void spread_affine(const Plan& plan, const Shape& s, float* scale, float* bias) {
    const int64_t channels = plan.channels;
    for (int64_t e = 0; e < s.row; ++e) {
        const int64_t c = s.planar_out ? e / s.plane_out : e % channels;
        scale[e] = plan.finish.scale[c];
        bias[e] = plan.finish.bias[c];
    }
}

template <int C>
static void band(const Job& job, const Plan& plan, int64_t index, int64_t y0, int64_t y1, char* scratch) {
    const Shape s = shape_of(job, plan);
    const Output& out = plan.output;
    float* scale = reinterpret_cast<float*>(scratch + s.scale_at);
    float* bias = reinterpret_cast<float*>(scratch + s.bias_at);
    spread_affine(plan, s, scale, bias);
    Packed* packed_x = reinterpret_cast<Packed*>(scratch + s.packed_x_at);
    Packed* packed_y = reinterpret_cast<Packed*>(scratch + s.packed_y_at);
    if (plan.quantize)
        for (int64_t x = 0; x < out.width; ++x)
            pack_taps(job.x, x, job.x.first[x] & 1, s.pairs_x, packed_x + x * s.pairs_x);
    const void** rows = reinterpret_cast<const void**>(scratch + s.pointers_at);
    const int element = plan.quantize ? 1 : 4, stored = kStoreBytes[(int)out.dtype];
    const int64_t runs = s.planar_out ? C : 1, run = s.planar_out ? out.width : out.width * C;

    // Positions count needed rows; position p lies in ring row p % ring. `first` is that of the first tap of row y.
    Needed needed{job.y, y0, y1 - 1, job.y.first[y0]};
    int64_t first = 0, made = 0;
    for (int64_t y = y0; y < y1; ++y) {
        const int count = job.y.count[y];
        if (y > y0) first += smaller(job.y.first[y] - job.y.first[y - 1], job.y.count[y - 1]);
        for (; made < first + count; made += kRows) make_rows<C>(job, plan, s, scratch, needed, made % s.ring);
        for (int k = 0; k < count; ++k) rows[k] = scratch + s.ring_at + ((first + k) % s.ring) * s.row * element;
        rows[count] = rows[0];  // read with weight zero where pairs of taps end on an odd count
        if (plan.quantize) pack_taps(job.y, y, 0, s.pairs_y, packed_y);
        for (int64_t c = 0; c < runs; ++c) {
            const int64_t at = c * s.plane_out * s.planar_out;
            char* to = static_cast<char*>(out.data) +
                       (index * out.stride_n + c * out.stride_c + y * out.stride_h) * stored;
            if (plan.quantize) {
                const FixedTaps taps{reinterpret_cast<const uint8_t* const*>(rows), packed_y, count, at};
                if (out.dtype == Store::kUint8)
                    run_of_bytes(taps, run, to);
                else
                    vertical(plan, taps, scale + at, bias + at, run, to);
            } else {
                const float* weight = static_cast<const float*>(job.y.weights) + y * job.y.taps;
                const FloatTaps taps{reinterpret_cast<const float* const*>(rows), weight, count, at};
                vertical(plan, taps, scale + at, bias + at, run, to);
            }
        }
    }
}

static size_t scratch_bytes(const Job& job, const Plan& plan) { return (size_t)shape_of(job, plan).total; }

static void rows(const Job& job, const Plan& plan, int64_t index, int64_t y0, int64_t y1, void* scratch) {
    char* memory = static_cast<char*>(scratch);
    if (plan.channels == 1) {
        band<1>(job, plan, index, y0, y1, memory);
    } else if (plan.channels == 3) {
        band<3>(job, plan, index, y0, y1, memory);
    } else {
        band<4>(job, plan, index, y0, y1, memory);
    }
}

}  // namespace

extern const Level FASTFID_JOIN(kLevel_, FASTFID_LEVEL) = {FASTFID_TEXT(FASTFID_LEVEL), scratch_bytes, rows};

}  // namespace fastfid
