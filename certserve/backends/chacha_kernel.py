"""The kernel that draws noisy copies on a CUDA device, in Triton. What it computes: `certserve.noise.chacha`."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["SEVERAL", "noisy_copies"]

SEVERAL = -(1 << 31)
"""Added to what `passed` says of a cell with more than one threshold in it."""

_WORDS = tl.constexpr(16)  # of a block
_LEAST = tl.constexpr((1 << 31) - 1)
# 1 / 255, of which a sum of pixel and noise has an exact product with the first part, so that the quotient is the
# nearest to the true one, whether or not the second product is rounded before it is added.
_HIGH_PART = tl.constexpr(257 / 65536)
_LOW_PART = tl.constexpr(1 / 16711680)


@triton.jit
def _quarter(a, b, c, d):
    a += b
    d ^= a
    d = (d << 16) | (d >> 16)
    c += d
    b ^= c
    b = (b << 12) | (b >> 20)
    a += b
    d ^= a
    d = (d << 8) | (d >> 24)
    c += d
    b ^= c
    b = (b << 7) | (b >> 25)
    return a, b, c, d


@triton.jit
def _words(key, block, draw, half):
    """The sixteen words of ChaCha20 blocks (RFC 8439, section 2.3), with the draw and the half as their nonce."""
    zero = block ^ block
    k0, k1, k2, k3 = tl.load(key), tl.load(key + 1), tl.load(key + 2), tl.load(key + 3)
    k4, k5, k6, k7 = tl.load(key + 4), tl.load(key + 5), tl.load(key + 6), tl.load(key + 7)
    i0, i1, i2, i3 = zero + 0x61707865, zero + 0x3320646E, zero + 0x79622D32, zero + 0x6B206574
    i4, i5, i6, i7 = zero + k0, zero + k1, zero + k2, zero + k3
    i8, i9, i10, i11 = zero + k4, zero + k5, zero + k6, zero + k7
    i12, i13 = block, zero + (draw & 0xFFFFFFFF).to(tl.uint32)
    i14, i15 = zero + (draw >> 32).to(tl.uint32), zero + half
    x0, x1, x2, x3, x4, x5, x6, x7 = i0, i1, i2, i3, i4, i5, i6, i7
    x8, x9, x10, x11, x12, x13, x14, x15 = i8, i9, i10, i11, i12, i13, i14, i15
    for _ in range(10):
        x0, x4, x8, x12 = _quarter(x0, x4, x8, x12)
        x1, x5, x9, x13 = _quarter(x1, x5, x9, x13)
        x2, x6, x10, x14 = _quarter(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter(x3, x7, x11, x15)
        x0, x5, x10, x15 = _quarter(x0, x5, x10, x15)
        x1, x6, x11, x12 = _quarter(x1, x6, x11, x12)
        x2, x7, x8, x13 = _quarter(x2, x7, x8, x13)
        x3, x4, x9, x14 = _quarter(x3, x4, x9, x14)
    left = (x0 + i0, x1 + i1, x2 + i2, x3 + i3, x4 + i4, x5 + i5, x6 + i6, x7 + i7)
    right = (x8 + i8, x9 + i9, x10 + i10, x11 + i11, x12 + i12, x13 + i13, x14 + i14, x15 + i15)
    return left + right


@triton.jit
def _looked_up(word, inside, table, passed, high, lowest):
    """The value that each high half draws, and whether that is open: several thresholds are near, or it is one."""
    cell = (word >> 16).to(tl.int32)
    value = tl.load(table + cell).to(tl.int32)
    undecided = inside & (value == -32768)
    least = tl.load(passed + cell, mask=undecided, other=0)
    bound = tl.load(high + (least & _LEAST), mask=undecided, other=0)
    below = bound < word
    still_open = undecided & ((bound == word) | (below & (least < 0)))
    return tl.where(undecided, lowest + (least & _LEAST) + below.to(tl.int32), value), still_open


@triton.jit
def _searched(word, where, passed, high, thresholds):
    """How many thresholds have a smaller high half, and whether the one that follows has the same."""
    cell = (word >> 16).to(tl.int32)
    least = tl.load(passed + cell, mask=where, other=0) & _LEAST
    most = tl.load(passed + cell + 1, mask=where, other=0) & _LEAST
    left = least < most
    while _any(left):
        middle = (least + most) // 2
        below = tl.load(high + middle, mask=left, other=0) < word
        least = tl.where(left & below, middle + 1, least)
        most = tl.where(left & (below == 0), middle, most)
        left = least < most
    return least, _ties(where, high, least, thresholds, word)


@triton.jit(do_not_specialize=["lowest", "thresholds", "dimension", "blocks"])
def noisy_copies(
    rows,
    job,
    image,
    mean,
    scale,
    table,
    passed,
    high,
    low,
    lowest,
    thresholds,
    dimension,
    blocks,
    CHANNELS: tl.constexpr,
    MIXED: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """rows[r] = ((image + noise of draw first + r) / 255 - mean) * scale.

    Grid: (number of rows, ceil(blocks / BLOCKS)). What a high half leaves open is written once more, and what is open
    after all high halves, once more again.

    Args:
        rows: float32 or bfloat16 (rows, dimension), channels last. image: uint8 (dimension,), likewise.
        job: uint32, the eight words of the key, and the first draw's low and high half.
        mean, scale: float32, of each channel.
        table: int16, the 65,536 values that the high 16 bits decide, or -32768.
        passed: int32, 65,537 entries: how many thresholds lie at or below k 2^48, and `SEVERAL`.
        high, low: uint32, the halves of the thresholds and one entry more; and how many thresholds there are. lowest:
            the value below all of them.
        blocks: ceil(dimension / 16). MIXED: whether a block's words fall on different channels: blocks % CHANNELS != 0.
    """
    row = tl.program_id(0)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    draw = (tl.load(job + 9).to(tl.uint64) << 32) + tl.load(job + 8) + row
    rows += tl.cast(row, tl.int64) * dimension
    words = _words(job, block.to(tl.uint32), draw, 0)
    first = _of_channel(block % CHANNELS, mean, scale)
    open_ones = block < 0
    for j in tl.static_range(_WORDS):
        place, inside = _place(j, block, blocks, dimension)
        value, still_open = _looked_up(words[j], inside, table, passed, high, lowest)
        normal = _of_channel(place % CHANNELS, mean, scale) if MIXED else first
        _store(rows, place, inside, value, image, normal)
        open_ones |= still_open
    if _any(open_ones):
        tied = block < 0
        for j in tl.static_range(_WORDS):
            place, inside = _place(j, block, blocks, dimension)
            _, still_open = _looked_up(words[j], inside, table, passed, high, lowest)
            least, tie = _searched(words[j], still_open, passed, high, thresholds)
            _store(rows, place, still_open, lowest + least, image, _of_channel(place % CHANNELS, mean, scale))
            tied |= tie
        if _any(tied):
            rest = _words(job, block.to(tl.uint32), draw, 1)
            for j in tl.static_range(_WORDS):
                place, inside = _place(j, block, blocks, dimension)
                _, still_open = _looked_up(words[j], inside, table, passed, high, lowest)
                least, tie = _searched(words[j], still_open, passed, high, thresholds)
                while _any(tie):
                    tie = tie & (tl.load(low + least, mask=tie, other=0) <= rest[j])
                    least += tie.to(tl.int32)
                    tie = _ties(tie, high, least, thresholds, words[j])
                _store(rows, place, still_open, lowest + least, image, _of_channel(place % CHANNELS, mean, scale))


@triton.jit
def _place(j, block, blocks, dimension):
    """Where the j-th word of each block goes, and whether there is such a pixel."""
    place = j * blocks + block
    return place, (block < blocks) & (place < dimension)


@triton.jit
def _of_channel(channel, mean, scale):
    return tl.load(mean + channel), tl.load(scale + channel)


@triton.jit
def _store(rows, place, where, value, image, normal):
    total = (tl.load(image + place, mask=where, other=0).to(tl.int32) + value).to(tl.float32)
    copy = total * _HIGH_PART + total * _LOW_PART
    tl.store(rows + place, (copy - normal[0]) * normal[1], mask=where)


@triton.jit
def _any(mask):
    return tl.max(mask.to(tl.int32), axis=0) > 0


@triton.jit
def _ties(where, high, least, thresholds, word):
    where = where & (least < thresholds)
    return where & (tl.load(high + least, mask=where, other=0) == word)
