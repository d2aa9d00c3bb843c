/* A stretch of a noisy row: its pixels, and the places of those that the table leaves undecided. */

#include <emmintrin.h>
#include <stdint.h>

#define CELLS 65536 /* entries of the table, one for each value of a uniform's high 16 bits */
#define SENTINEL (-32768)
#define LEVELS 255.0f
#define WORD 64 /* pixels, a bit for each in a word */
#define GROUP 8 /* pixels that are written together */

typedef struct { /* as in certserve.noise.grid.RoundedGaussian */
    const int16_t *table;
    const uint64_t *thresholds;
    size_t count;
    int lowest;
} Law;

/* Put the bits' places, counted from `first`, where `end` is; the new end. */
static inline uint16_t *put_places(uint64_t bits, Py_ssize_t first, uint16_t *end)
{
    for (int i = 0; i < 2; i++, bits &= bits - 1) { /* without branches, which no processor could predict */
        *end = (uint16_t)(first + __builtin_ctzll(bits | UINT64_C(1) << (WORD - 1)));
        end += bits != 0;
    }
    for (; bits; bits &= bits - 1) /* few words have more than two */
        *end++ = (uint16_t)(first + __builtin_ctzll(bits));
    return end;
}

/* Write `count` pixels, at most a group, the undecided ones with whatever value; a bit for each of these. */
static unsigned write_some(const Law *law, float *row, const uint8_t *pixels, int count, const uint16_t *cells)
{
    unsigned undecided = 0;
    for (int i = 0; i < count; i++) {
        int noise = law->table[cells[i]];
        undecided |= (unsigned)(noise == SENTINEL) << i;
        row[i] = (float)(noise + pixels[i]) / LEVELS;
    }
    return undecided;
}

/* The same of a whole group. */
static inline unsigned write_group(const Law *law, float *row, const uint8_t *pixels, const uint16_t *cells)
{
#define NOISE(i) law->table[cells[i]]
    __m128i noise = _mm_set_epi16(NOISE(7), NOISE(6), NOISE(5), NOISE(4), NOISE(3), NOISE(2), NOISE(1), NOISE(0));
#undef NOISE
    __m128i values = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)pixels), _mm_setzero_si128());
    values = _mm_add_epi16(values, noise);
    __m128 levels = _mm_set1_ps(LEVELS);
    __m128i left = _mm_srai_epi32(_mm_unpacklo_epi16(values, values), 16);
    __m128i right = _mm_srai_epi32(_mm_unpackhi_epi16(values, values), 16);
    _mm_storeu_ps(row, _mm_div_ps(_mm_cvtepi32_ps(left), levels));
    _mm_storeu_ps(row + 4, _mm_div_ps(_mm_cvtepi32_ps(right), levels));
    __m128i undecided = _mm_cmpeq_epi16(noise, _mm_set1_epi16(SENTINEL));
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(undecided, _mm_setzero_si128()));
}

/* The same of at most a word. */
static inline uint64_t write_word(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t count,
                                  const uint16_t *cells)
{
    uint64_t undecided = 0;
    int i = 0;
    for (; i + GROUP <= count; i += GROUP)
        undecided |= (uint64_t)write_group(law, row + i, pixels + i, cells + i) << i;
    if (i < count)
        undecided |= (uint64_t)write_some(law, row + i, pixels + i, (int)(count - i), cells + i) << i;
    return undecided;
}

/* Write `count` pixels, the undecided ones with whatever value, and list the places of these; the end of the list. */
static uint16_t *write_pixels(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t count,
                              const uint16_t *cells, uint16_t *undecided)
{
    for (Py_ssize_t i = 0; i < count; i += WORD) {
        Py_ssize_t some = count - i < WORD ? count - i : WORD;
        undecided = put_places(write_word(law, row + i, pixels + i, some, cells + i), i, undecided);
    }
    return undecided;
}
