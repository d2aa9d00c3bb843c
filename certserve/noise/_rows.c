/* Noisy rows in one pass over the stream: what certserve.noise.grid does with numpy, to the last bit, and faster.
 *
 * Optional: where it could not be compiled when the package was installed, numpy does it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "quotients would not be those of float32"
#endif

#define CELLS 65536 /* entries of the tables, one for each value of a uniform's high 16 bits */
#define SENTINEL (-32768)
#define LEVELS 255.0f
#define GROUP 8  /* pixels that are written together */
#define WORD 64  /* pixels, a bit for each in a word */
#define WORDS 64 /* whose undecided pixels are settled together */

typedef struct { /* as in certserve.noise.grid.RoundedGaussian */
    const int16_t *table;
    const uint16_t *passed;
    const uint64_t *thresholds;
    size_t count;
    int lowest;
} Law;

/* The stream is little-endian, and its bytes may lie anywhere. */
static inline unsigned cell_at(const uint8_t *bytes) { return bytes[0] | (unsigned)bytes[1] << 8; }

static int settle(const Law *law, unsigned cell, const uint8_t *low)
{
    uint64_t bits = (uint64_t)cell << 48;
    for (int i = 0; i < 6; i++)
        bits |= (uint64_t)low[i] << 8 * i;
    size_t index = law->passed[cell];
    if (index < law->count)
        index += law->thresholds[index] <= bits;
    while (index < law->count && law->thresholds[index] <= bits)
        index++;
    return (int)index + law->lowest;
}

/* Write `count` pixels, at most a group, the undecided ones with whatever value; a bit for each of these. */
static unsigned write_some(const Law *law, float *row, const uint8_t *pixels, int count, const uint8_t *cells)
{
    unsigned undecided = 0;
    for (int i = 0; i < count; i++) {
        int noise = law->table[cell_at(cells + 2 * i)];
        undecided |= (unsigned)(noise == SENTINEL) << i;
        row[i] = (float)(noise + pixels[i]) / LEVELS;
    }
    return undecided;
}

/* The same of a whole group. */
static inline unsigned write_group(const Law *law, float *row, const uint8_t *pixels, const uint8_t *cells)
{
#ifdef __SSE2__
#define NOISE(i) law->table[cell_at(cells + 2 * (i))]
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
#else
    return write_some(law, row, pixels, GROUP, cells);
#endif
}

/* The same of at most a word. */
static inline uint64_t write_word(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t count,
                                  const uint8_t *cells)
{
    uint64_t undecided = 0;
    int i = 0;
    for (; i + GROUP <= count; i += GROUP)
        undecided |= (uint64_t)write_group(law, row + i, pixels + i, cells + 2 * i) << i;
    if (i < count)
        undecided |= (uint64_t)write_some(law, row + i, pixels + i, (int)(count - i), cells + 2 * i) << i;
    return undecided;
}

static inline int lowest_bit(uint64_t bits)
{
#ifdef __GNUC__
    return __builtin_ctzll(bits);
#else
    int i = 0;
    for (; !(bits & 1); bits >>= 1)
        i++;
    return i;
#endif
}

/* One draw into `row`; 0 if more pixels are undecided than there are `slots` of further bits. */
static int write_row(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t dimension, const uint8_t *cells,
                     const uint8_t *low, Py_ssize_t slots)
{
    uint64_t undecided[WORDS];
    for (Py_ssize_t first = 0; first < dimension; first += WORD * WORDS) {
        Py_ssize_t left = dimension - first, words = 0;
        for (Py_ssize_t i = first; left > 0 && words < WORDS; i += WORD, left -= WORD)
            undecided[words++] = write_word(law, row + i, pixels + i, left < WORD ? left : WORD, cells + 2 * i);
        for (Py_ssize_t k = 0; k < words; k++) { /* a processor cannot predict where they are: they come afterwards */
            for (uint64_t more = undecided[k]; more; more &= more - 1) {
                Py_ssize_t i = first + WORD * k + lowest_bit(more);
                if (slots-- == 0)
                    return 0;
                row[i] = (float)(settle(law, cell_at(cells + 2 * i), low) + pixels[i]) / LEVELS;
                low += 8;
            }
        }
    }
    return 1;
}

/* Whether the buffer has `each` items of so many bytes for each of `count` draws. */
static int holds(const Py_buffer *buffer, Py_ssize_t count, Py_ssize_t each, Py_ssize_t bytes)
{
    return each >= 0 && (count == 0 || each <= buffer->len / bytes / count);
}

PyDoc_STRVAR(write_doc, "write(rows, pixels, cells, stride, low, slots, table, passed, thresholds, lowest) -> bool\n\n"
                        "See _rows.pyi.");

static PyObject *write_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer rows, pixels, cells, low, table, passed, thresholds;
    Py_ssize_t stride, slots;
    Law law;
    if (!PyArg_ParseTuple(args, "w*y*y*ny*ny*y*y*i", &rows, &pixels, &cells, &stride, &low, &slots, &table, &passed,
                          &thresholds, &law.lowest))
        return NULL;
    Py_ssize_t dimension = pixels.len;
    Py_ssize_t count = dimension ? rows.len / (Py_ssize_t)sizeof(float) / dimension : 0;
    int all = 1;
    int fits = holds(&cells, count, stride, 2) && stride >= dimension && holds(&low, count, slots, 8) &&
               table.len == CELLS * (Py_ssize_t)sizeof(int16_t) && passed.len == CELLS * (Py_ssize_t)sizeof(uint16_t);
    if (fits) {
        law.table = table.buf;
        law.passed = passed.buf;
        law.thresholds = thresholds.buf;
        law.count = (size_t)thresholds.len / sizeof(uint64_t);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; all && i < count; i++)
            all = write_row(&law, (float *)rows.buf + i * dimension, pixels.buf, dimension,
                            (const uint8_t *)cells.buf + 2 * i * stride, (const uint8_t *)low.buf + 8 * i * slots, slots);
        Py_END_ALLOW_THREADS
    }
    Py_buffer *held[] = {&rows, &pixels, &cells, &low, &table, &passed, &thresholds};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        PyBuffer_Release(held[i]);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the arrays' sizes do not belong together");
        return NULL;
    }
    return PyBool_FromLong(all);
}

static PyMethodDef methods[] = {{"write", write_rows, METH_VARARGS, write_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots_of_module[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_size = 0, .m_methods = methods, .m_slots = slots_of_module};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&definition); }
