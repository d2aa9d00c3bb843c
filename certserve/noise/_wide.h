/* What _stream.h and _pixels.h do, to the last bit, by instructions of 512 bits. */

#include <cpuid.h>
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,vaes")))
#define LANES 16 /* pixels that are written together */
#define BLOCKS_A_VECTOR 4
#define VECTORS (WHOLE / BLOCKS_A_VECTOR) /* enough to hide how long one takes */

/* Whether the processor has them, and AVX512-FP16: older ones gather slowly where they are guarded (CVE-2022-40982). */
static int processor_is_wide(void)
{
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (c & 1u << 9) /* VAES */ && (d & 1u << 23) /* AVX512-FP16 */;
}

/* As make_blocks. */
WIDE static void make_blocks_wide(const Stream *stream, uint64_t first, Py_ssize_t count, __m128i *blocks)
{
    const __mmask8 counters = 0xaa; /* the second half of each block, where bytes are reversed */
    const __m512i reversed =
        _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 4, 3, 2, 1, 0));
    const __m512i vector = _mm512_maskz_set1_epi64(counters, BLOCKS_A_VECTOR);
    __m512i numbers = _mm512_add_epi64(_mm512_maskz_set1_epi64(counters, (int64_t)first),
                                       _mm512_set_epi64(3, 0, 2, 0, 1, 0, 0, 0));
    __m512i keys[ROUNDS + 1];
    UNROLLED for (int i = 0; i <= ROUNDS; i++) keys[i] = _mm512_broadcast_i32x4(stream->keys[i]);
    for (Py_ssize_t done = 0; done < count; done += WHOLE) {
        __m512i made[VECTORS];
        UNROLLED for (int i = 0; i < VECTORS; i++)
        {
            made[i] = _mm512_xor_si512(_mm512_shuffle_epi8(numbers, reversed), keys[0]);
            numbers = _mm512_add_epi64(numbers, vector);
        }
        UNROLLED for (int round = 1; round < ROUNDS; round++)
            UNROLLED for (int i = 0; i < VECTORS; i++)
                made[i] = _mm512_aesenc_epi128(made[i], keys[round]);
        UNROLLED for (int i = 0; i < VECTORS; i++)
            _mm512_storeu_si512(blocks + done + i * BLOCKS_A_VECTOR, _mm512_aesenclast_epi128(made[i], keys[ROUNDS]));
    }
}

/* As write_some, of the pixels in `lanes`. */
WIDE static inline __mmask16 write_lanes(const Law *law, float *row, const uint8_t *pixels, __mmask16 lanes,
                                         const uint16_t *cells)
{
    __m512i cell = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, cells));
    __m512i pair = _mm512_i32gather_epi32(_mm512_srli_epi32(cell, 1), law->table, 2 * sizeof *law->table);
    __m512i above = _mm512_slli_epi32(_mm512_andnot_si512(cell, _mm512_set1_epi32(1)), 4); /* 16 bits, or none */
    __m512i noise = _mm512_srai_epi32(_mm512_sllv_epi32(pair, above), 16);
    __m512i values = _mm512_add_epi32(noise, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, pixels)));
    _mm512_mask_storeu_ps(row, lanes, _mm512_div_ps(_mm512_cvtepi32_ps(values), _mm512_set1_ps(LEVELS)));
    return _mm512_mask_cmpeq_epi32_mask(lanes, noise, _mm512_set1_epi32(SENTINEL));
}

/* As write_pixels. */
WIDE static uint16_t *write_pixels_wide(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t count,
                                        const uint16_t *cells, uint16_t *undecided)
{
    for (Py_ssize_t i = 0; i < count; i += WORD) {
        uint64_t all = count - i < WORD ? (UINT64_C(1) << (count - i)) - 1 : ~UINT64_C(0), found = 0;
        UNROLLED for (int j = 0; j < WORD; j += LANES)
            found |= (uint64_t)write_lanes(law, row + i + j, pixels + i + j, (__mmask16)(all >> j), cells + i + j) << j;
        undecided = put_places(found, i, undecided);
    }
    return undecided;
}
