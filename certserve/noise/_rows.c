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

#include "_pixels.h"
#include "_stream.h"
#include "_wide.h"

#define PASS (64 * WORD) /* pixels, the undecided of which are settled together */
#define SETTLED_AT_ONCE (WHOLE * BLOCK_BYTES / 8)
#define LOW_48 ((UINT64_C(1) << 48) - 1)

typedef struct { /* by which instructions */
    void (*make_blocks)(const Stream *, uint64_t first, Py_ssize_t count, __m128i *blocks);
    uint16_t *(*write_pixels)(const Law *, float *row, const uint8_t *pixels, Py_ssize_t count, const uint16_t *cells,
                              uint16_t *undecided);
} Ways;

static const Ways usual = {make_blocks, write_pixels}, wide = {make_blocks_wide, write_pixels_wide};
static int has_wide; /* whether this processor has the second */

typedef struct { /* what one draw is made of: 16 bits a pixel, and 64, of which 48 count, for each slot */
    const Stream *cells, *further;
    uint64_t first_of_cells, first_of_further; /* blocks */
    Py_ssize_t slots;
} Draw;

/* How many thresholds lie at or below `bits`. */
static size_t passed(const Law *law, uint64_t bits)
{
    size_t first = 0, count = law->count;
    while (count > 0) {
        size_t half = count / 2;
        int above = law->thresholds[first + half] <= bits;
        first += above ? half + 1 : 0;
        count = above ? count - half - 1 : half;
    }
    return first;
}

static int settle(const Law *law, unsigned cell, uint64_t further)
{
    uint64_t bits = (uint64_t)cell << 48 | (further & LOW_48);
    if (cell > 0 && cell < CELLS - 1) {
        int before = law->table[cell - 1], after = law->table[cell + 1];
        size_t next = (size_t)before - (size_t)law->lowest;
        if (after == before + 1 && next < law->count) /* it holds one threshold, as most do */
            return law->thresholds[next] <= bits ? after : before;
    }
    return (int)passed(law, bits) + law->lowest;
}

/* One draw into `row`; 0 if more pixels are undecided than there are slots. */
static int write_row(const Ways *ways, const Law *law, float *row, const uint8_t *pixels, Py_ssize_t dimension,
                     const Draw *draw)
{
    union {
        _Alignas(64) __m128i blocks[PASS * 2 / BLOCK_BYTES];
        uint16_t values[PASS];
    } cells;
    union {
        __m128i blocks[WHOLE];
        uint64_t values[SETTLED_AT_ONCE];
    } further;
    uint16_t undecided[PASS + 1];
    uint64_t next_of_cells = draw->first_of_cells, next_of_further = draw->first_of_further;
    Py_ssize_t settled = 0;
    for (Py_ssize_t first = 0; first < dimension; first += PASS) {
        Py_ssize_t count = dimension - first < PASS ? dimension - first : PASS;
        float *to = row + first;
        const uint8_t *from = pixels + first;
        ways->make_blocks(draw->cells, next_of_cells, blocks_of(2 * count), cells.blocks);
        next_of_cells += PASS * 2 / BLOCK_BYTES;
        uint16_t *end = ways->write_pixels(law, to, from, count, cells.values, undecided);
        for (uint16_t *place = undecided; place < end; place++, settled++) {
            if (settled == draw->slots)
                return 0;
            if (settled % SETTLED_AT_ONCE == 0) {
                ways->make_blocks(draw->further, next_of_further, WHOLE, further.blocks);
                next_of_further += WHOLE;
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

PyDoc_STRVAR(write_doc, "write(rows, pixels, cells, further, first, slots, table, thresholds, lowest, wide) -> bool\n\n"
                        "See _rows.pyi.");

static PyObject *write_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer rows, pixels, cells, further, table, thresholds;
    Py_ssize_t first, slots;
    Law law;
    int by_wide;
    if (!PyArg_ParseTuple(args, "w*y*y*y*nny*y*ip", &rows, &pixels, &cells, &further, &first, &slots, &table,
                          &thresholds, &law.lowest, &by_wide))
        return NULL;
    Py_ssize_t dimension = pixels.len;
    Py_ssize_t count = dimension ? rows.len / (Py_ssize_t)sizeof(float) / dimension : 0;
    Py_ssize_t each_of_cells = blocks_of(2 * dimension), each_of_further = slots / 2;
    int all = 1;
    int fits = cells.len == KEY_BYTES && further.len == KEY_BYTES && slots >= 0 && slots % 2 == 0 &&
               table.len == CELLS * (Py_ssize_t)sizeof(int16_t) && are_numbered(first, count, each_of_cells) &&
               are_numbered(first, count, each_of_further) && (!by_wide || has_wide);
    if (fits) {
        law.table = table.buf;
        law.thresholds = thresholds.buf;
        law.count = (size_t)thresholds.len / sizeof(uint64_t);
        Py_BEGIN_ALLOW_THREADS
        Stream of_cells = stream_under(cells.buf), of_further = stream_under(further.buf);
        for (Py_ssize_t i = 0; all && i < count; i++) {
            Draw draw = {&of_cells, &of_further, (uint64_t)((first + i) * each_of_cells),
                         (uint64_t)((first + i) * each_of_further), slots};
            float *row = (float *)rows.buf + i * dimension;
            all = write_row(by_wide ? &wide : &usual, &law, row, pixels.buf, dimension, &draw);
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

static int check_processor(PyObject *module)
{
    if (!processor_has_aes()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no instructions for AES");
        return -1;
    }
    has_wide = processor_is_wide();
    return PyModule_AddObjectRef(module, "WIDE", has_wide ? Py_True : Py_False);
}

static PyMethodDef methods[] = {{"write", write_rows, METH_VARARGS, write_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots_of_module[] = {{Py_mod_exec, check_processor}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_size = 0, .m_methods = methods, .m_slots = slots_of_module};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&definition); }
