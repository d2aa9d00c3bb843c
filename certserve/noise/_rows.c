/* Noisy rows in one pass over the stream: what certserve.noise.grid does with numpy, to the last bit, and faster.
 *
 * Optional: where it could not be compiled when the package was installed, numpy does it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "quotients would not be those of float32"
#endif

#define CELLS 65536 /* entries of the tables, one for each value of a uniform's high 16 bits */
#define SENTINEL (-32768)
#define LEVELS 255.0f

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
    while (index < law->count && law->thresholds[index] <= bits)
        index++;
    return (int)index + law->lowest;
}

/* One draw into `row`; 0 if more pixels are undecided than there are `slots` of further bits. */
static int write_row(const Law *law, float *row, const uint8_t *pixels, Py_ssize_t dimension, const uint8_t *cells,
                     const uint8_t *low, Py_ssize_t slots)
{
    for (Py_ssize_t i = 0; i < dimension; i++) {
        unsigned cell = cell_at(cells + 2 * i);
        int noise = law->table[cell];
        if (noise == SENTINEL) { /* rare enough to be predicted */
            if (slots-- == 0)
                return 0;
            noise = settle(law, cell, low);
            low += 8;
        }
        row[i] = (float)(noise + pixels[i]) / LEVELS;
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
