"""What the processor can do: the cores this process may use, and the vector instructions kernels are chosen by."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

__all__ = [
    "cores",
    "cores_each",
    "fast_in",
    "instruction_set",
    "multiplies_7bit_int8",
    "multiplies_bfloat16",
    "multiplies_int8",
    "processor_name",
]

_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "asimddp", "i8mm", "bf16")

_MOST_PARALLEL = 8


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_each() -> tuple[int, int]:
    """How many batches to run at once on this machine, and on how many cores each.

    A batch on one core pays for no agreement between threads, and leaves no core idle while another makes noise; but
    each costs the loop that serves them its share, so there are eight at most.
    """
    each = -(-cores() // _MOST_PARALLEL)
    return cores() // each, each


@cache
def instruction_set() -> str:
    """The processor's architecture and those of its vector instructions that numerical kernels are chosen by."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    words = set(text.split())
    return "+".join([platform.machine(), *(name for name in _INSTRUCTION_SETS if name in words)])


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16: without them it is slower than float32."""
    return bool({"avx512_bf16", "amx_tile", "bf16"} & set(instruction_set().split("+")))


def multiplies_int8() -> bool:
    """Whether the processor has instructions for sums of products of bytes: without them int8 may saturate."""
    return bool({"avx512_vnni", "avx_vnni", "amx_tile", "asimddp", "i8mm"} & set(instruction_set().split("+")))


def multiplies_7bit_int8() -> bool:
    """Whether sums of products of bytes are fast where one of the factors has 7 bits.

    AVX2 adds products of bytes two at a time, in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 saturates.
    """
    return multiplies_int8() or "avx2" in instruction_set().split("+")


def fast_in(precision: str) -> bool:
    """Whether the processor has what makes a precision fast; true for one that needs nothing special."""
    needs = {"int8": multiplies_int8, "int8-7bit": multiplies_7bit_int8, "bfloat16": multiplies_bfloat16}
    return needs.get(precision, lambda: True)()


def processor_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
