/* The stream of certserve.noise.keystream, AES-128 in counter mode (FIPS 197, SP 800-38A), by the processor's own
 * instructions, whose time does not depend on the key.
 */

#include <stdint.h>
#include <wmmintrin.h>

#define WITH_AES __attribute__((target("aes")))
#define KEY_BYTES 16
#define BLOCK_BYTES 16
#define WHOLE 16    /* blocks: room is for its multiples */
#define IN_FLIGHT 8 /* blocks, enough to hide how long one takes */
#define UNROLLED _Pragma("GCC unroll 16")
#define ROUNDS 10

typedef struct {
    __m128i keys[ROUNDS + 1];
} Stream;

static int processor_has_aes(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("aes") != 0;
}

/* How many blocks hold so many bytes. */
static inline Py_ssize_t blocks_of(Py_ssize_t bytes) { return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES; }

WITH_AES static inline __m128i next_key(__m128i key, __m128i assistance)
{
    for (int i = 0; i < 3; i++) /* each word takes in all before it */
        key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, _mm_shuffle_epi32(assistance, 0xff));
}

/* The stream under a key. */
WITH_AES static Stream stream_under(const uint8_t *key)
{
    Stream stream;
    __m128i *keys = stream.keys;
    keys[0] = _mm_loadu_si128((const __m128i *)key);
#define EXPAND(i, constant) keys[i] = next_key(keys[i - 1], _mm_aeskeygenassist_si128(keys[i - 1], constant))
    EXPAND(1, 0x01), EXPAND(2, 0x02), EXPAND(3, 0x04), EXPAND(4, 0x08), EXPAND(5, 0x10);
    EXPAND(6, 0x20), EXPAND(7, 0x40), EXPAND(8, 0x80), EXPAND(9, 0x1b), EXPAND(10, 0x36);
#undef EXPAND
    return stream;
}

/* Its blocks from `first` on: as many as asked for, and perhaps more, up to a multiple of WHOLE. */
WITH_AES static void make_blocks(const Stream *stream, uint64_t first, Py_ssize_t count, __m128i *blocks)
{
    for (Py_ssize_t done = 0; done < count; done += IN_FLIGHT) {
        __m128i made[IN_FLIGHT]; /* in registers, where the loops are unrolled */
        UNROLLED for (int i = 0; i < IN_FLIGHT; i++) { /* the counter is big-endian */
            uint64_t number = __builtin_bswap64(first + (uint64_t)(done + i));
            made[i] = _mm_xor_si128(_mm_set_epi64x((int64_t)number, 0), stream->keys[0]);
        }
        for (int round = 1; round < ROUNDS; round++)
            UNROLLED for (int i = 0; i < IN_FLIGHT; i++)
                made[i] = _mm_aesenc_si128(made[i], stream->keys[round]);
        UNROLLED for (int i = 0; i < IN_FLIGHT; i++)
            _mm_storeu_si128(blocks + done + i, _mm_aesenclast_si128(made[i], stream->keys[ROUNDS]));
    }
}
