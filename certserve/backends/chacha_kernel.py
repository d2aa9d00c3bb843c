"""The kernel that draws noisy copies on a CUDA device, in Triton. What it computes: `certserve.noise.chacha`."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["noisy_copies"]


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
    """ChaCha20 blocks (RFC 8439, section 2.3), with the draw and the half as their nonce: (BLOCKS, 16) words."""
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
    even = tl.join(
        tl.join(tl.join(x0 + i0, x8 + i8), tl.join(x4 + i4, x12 + i12)),
        tl.join(tl.join(x2 + i2, x10 + i10), tl.join(x6 + i6, x14 + i14)),
    )
    odd = tl.join(
        tl.join(tl.join(x1 + i1, x9 + i9), tl.join(x5 + i5, x13 + i13)),
        tl.join(tl.join(x3 + i3, x11 + i11), tl.join(x7 + i7, x15 + i15)),
    )
    return tl.reshape(tl.join(even, odd), (block.shape[0], 16))


@triton.jit
def _value(words, inside, job, block, draw, table, passed, high, low, lowest, thresholds):
    """The value that each high half, and where that is a threshold's the low one too, draws."""
    cell = (words >> 16).to(tl.int32)
    value = tl.load(table + cell).to(tl.int32)
    undecided = inside & (value == -32768)
    # How many thresholds are passed: `least` to `most`, halved while that is open anywhere.
    least = tl.load(passed + cell, mask=undecided, other=0)
    most = tl.load(passed + cell + 1, mask=undecided, other=0)
    searched = least < most
    while _any(searched):
        middle = (least + most) // 2
        below = tl.load(high + middle, mask=searched, other=0) < words
        least = tl.where(searched & below, middle + 1, least)
        most = tl.where(searched & (below == 0), middle, most)
        searched = least < most
    # `least` thresholds have a smaller high half. Those that follow with the same one are compared by the low half.
    tie = _ties(undecided, high, least, thresholds, words)
    if _any(tie):
        rest = _words(job, block.to(tl.uint32), draw, 1)
        while _any(tie):
            tie = tie & (tl.load(low + least, mask=tie, other=0) <= rest)
            least += tie.to(tl.int32)
            tie = _ties(tie, high, least, thresholds, words)
    return tl.where(undecided, lowest + least, value)


@triton.jit(do_not_specialize=["lowest", "thresholds", "dimension", "blocks"])
def noisy_copies(
    rows,
    job,
    image,
    mean,
    std,
    table,
    passed,
    high,
    low,
    lowest,
    thresholds,
    dimension,
    blocks,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """rows[r] = ((image + noise of draw first + r) / 255 - mean) / std. Grid: (number of rows, ceil(blocks / BLOCKS)).

    Args:
        rows: float32 or bfloat16 (rows, dimension), channels last. image: uint8 (dimension,), likewise.
        job: uint32, the eight words of the key, and the first draw's low and high half.
        mean, std: float32, of each channel.
        table: int16, the 65,536 values that the high 16 bits decide, or -32768.
        passed: int32, 65,537 entries: how many thresholds lie at or below k 2^48.
        high, low: uint32, the halves of the thresholds, and how many these are. lowest: the value below all of them.
        blocks: ceil(dimension / 16).
    """
    row = tl.program_id(0)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    draw = (tl.load(job + 9).to(tl.uint64) << 32) + tl.load(job + 8) + row
    words = _words(job, block.to(tl.uint32), draw, 0)
    place = tl.arange(0, 16)[None, :] * blocks + block[:, None]
    inside = (block[:, None] < blocks) & (place < dimension)
    value = _value(words, inside, job, block, draw, table, passed, high, low, lowest, thresholds)
    pixel = tl.load(image + place, mask=inside, other=0).to(tl.int32)
    channel = place % CHANNELS
    copy = tl.div_rn((pixel + value).to(tl.float32), 255.0) - tl.load(mean + channel)
    tl.store(rows + tl.cast(row, tl.int64) * dimension + place, tl.div_rn(copy, tl.load(std + channel)), mask=inside)


@triton.jit
def _any(mask):
    return tl.max(tl.max(mask.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def _ties(where, high, least, thresholds, words):
    where = where & (least < thresholds)
    return where & (tl.load(high + least, mask=where, other=0) == words)
