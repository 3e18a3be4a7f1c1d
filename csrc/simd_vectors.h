// Vectors of one instruction set, and what the resampler does with them: load, store, widen, narrow, transpose.
//
// Included only by resample_simd.cpp, which is compiled once per level; everything has internal linkage, and nothing
// comes from the standard library's templates: the linker could pick the copy that was compiled for a larger
// instruction set than the CPU has.
#pragma once

#include "resample.h"

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

}  // namespace
}  // namespace fastfid
