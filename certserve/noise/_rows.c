/* Noisy rows in one pass, from the keys to the pixels: what certserve.noise.grid does with numpy, to the last bit.
 *
 * Optional: where it could not be compiled when the package was installed, or the processor has no instructions for
 * AES, numpy does it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>

#if !defined(__GNUC__) || !defined(__x86_64__)
#error "the instructions are those of x86-64, as GCC and Clang name them"
#endif
#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "quotients would not be those of float32"
#endif

#include "_stream.h"

#define CELLS 65536 /* entries of the table, one for each value of a uniform's high 16 bits */
#define SENTINEL (-32768)
#define LEVELS 255.0f
#define GROUP 8           /* pixels that are written together */
#define WORD 64           /* pixels, a bit for each in a word */
#define PASS (64 * WORD)  /* pixels, the undecided of which are settled together */
#define SETTLED_AT_ONCE (BLOCKS_AT_ONCE * BLOCK_BYTES / 8)
#define LOW_48 ((UINT64_C(1) << 48) - 1)

typedef struct { /* as in certserve.noise.grid.RoundedGaussian */
    const int16_t *table;
    const uint64_t *thresholds;
    size_t count;
    int lowest;
} Law;

typedef struct { /* what one draw is made of: 16 bits a pixel, and 64, of which 48 count, for each slot */
    const Stream *cells, *further;
    uint64_t first_of_cells, first_of_further; /* blocks */
    Py_ssize_t slots;
} Draw;

/* How many thresholds, at least, lie at or below where the cell begins: a decided one before it tells. */
static size_t passed_before(const Law *law, unsigned cell)
{
    while (cell > 0 && law->table[cell] == SENTINEL)
        cell--;
    return law->table[cell] == SENTINEL ? 0 : (size_t)(law->table[cell] - law->lowest);
}

static int settle(const Law *law, unsigned cell, uint64_t further)
{
    uint64_t bits = (uint64_t)cell << 48 | (further & LOW_48);
    size_t index = passed_before(law, cell);
    while (index < law->count && law->thresholds[index] <= bits)
        index++;
    return (int)index + law->lowest;
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

/* One draw into `row`; 0 if more pixels are undecided than there are slots. */
static int write_row(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t dimension, const Draw *draw)
{
    union {
        __m128i blocks[PASS * 2 / BLOCK_BYTES];
        uint16_t values[PASS];
    } cells;
    union {
        __m128i blocks[BLOCKS_AT_ONCE];
        uint64_t values[SETTLED_AT_ONCE];
    } further;
    uint16_t undecided[PASS + 1];
    uint64_t next_of_cells = draw->first_of_cells, next_of_further = draw->first_of_further;
    Py_ssize_t settled = 0;
    for (Py_ssize_t first = 0; first < dimension; first += PASS) {
        Py_ssize_t count = dimension - first < PASS ? dimension - first : PASS;
        float *to = row + first;
        const uint8_t *from = pixels + first;
        uint16_t *end = undecided;
        make_blocks(draw->cells, next_of_cells, blocks_of(2 * count), cells.blocks);
        next_of_cells += PASS * 2 / BLOCK_BYTES;
        for (Py_ssize_t i = 0; i < count; i += WORD) {
            Py_ssize_t some = count - i < WORD ? count - i : WORD;
            end = put_places(write_word(law, to + i, from + i, some, cells.values + i), i, end);
        }
        for (uint16_t *place = undecided; place < end; place++, settled++) {
            if (settled == draw->slots)
                return 0;
            if (settled % SETTLED_AT_ONCE == 0) {
                make_blocks(draw->further, next_of_further, BLOCKS_AT_ONCE, further.blocks);
                next_of_further += BLOCKS_AT_ONCE;
            }
            int noise = settle(law, cells.values[*place], further.values[settled % SETTLED_AT_ONCE]);
            to[*place] = (float)(noise + from[*place]) / LEVELS;
        }
    }
    return 1;
}

/* Whether the blocks of draws first..first + count - 1, so many each, can be numbered. */
static int are_numbered(Py_ssize_t first, Py_ssize_t count, Py_ssize_t each)
{
    return first >= 0 && first <= PY_SSIZE_T_MAX - count && (each == 0 || first + count <= PY_SSIZE_T_MAX / each);
}

PyDoc_STRVAR(write_doc, "write(rows, pixels, cells, further, first, slots, table, thresholds, lowest) -> bool\n\n"
                        "See _rows.pyi.");

static PyObject *write_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer rows, pixels, cells, further, table, thresholds;
    Py_ssize_t first, slots;
    Law law;
    if (!PyArg_ParseTuple(args, "w*y*y*y*nny*y*i", &rows, &pixels, &cells, &further, &first, &slots, &table,
                          &thresholds, &law.lowest))
        return NULL;
    Py_ssize_t dimension = pixels.len;
    Py_ssize_t count = dimension ? rows.len / (Py_ssize_t)sizeof(float) / dimension : 0;
    Py_ssize_t each_of_cells = blocks_of(2 * dimension), each_of_further = slots / 2;
    int all = 1;
    int fits = cells.len == KEY_BYTES && further.len == KEY_BYTES && slots >= 0 && slots % 2 == 0 &&
               table.len == CELLS * (Py_ssize_t)sizeof(int16_t) && are_numbered(first, count, each_of_cells) &&
               are_numbered(first, count, each_of_further);
    if (fits) {
        law.table = table.buf;
        law.thresholds = thresholds.buf;
        law.count = (size_t)thresholds.len / sizeof(uint64_t);
        Py_BEGIN_ALLOW_THREADS
        Stream of_cells = stream_under(cells.buf), of_further = stream_under(further.buf);
        for (Py_ssize_t i = 0; all && i < count; i++) {
            Draw draw = {&of_cells, &of_further, (uint64_t)((first + i) * each_of_cells),
                         (uint64_t)((first + i) * each_of_further), slots};
            all = write_row(&law, (float *)rows.buf + i * dimension, pixels.buf, dimension, &draw);
        }
        Py_END_ALLOW_THREADS
    }
    Py_buffer *held[] = {&rows, &pixels, &cells, &further, &table, &thresholds};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        PyBuffer_Release(held[i]);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the arguments do not belong together");
        return NULL;
    }
    return PyBool_FromLong(all);
}

static int check_processor(PyObject *Py_UNUSED(module))
{
    if (processor_has_aes())
        return 0;
    PyErr_SetString(PyExc_ImportError, "this processor has no instructions for AES");
    return -1;
}

static PyMethodDef methods[] = {{"write", write_rows, METH_VARARGS, write_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots_of_module[] = {{Py_mod_exec, check_processor}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_size = 0, .m_methods = methods, .m_slots = slots_of_module};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&definition); }
