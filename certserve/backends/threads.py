"""How many threads torch's operations use, by the thread that calls them."""

from __future__ import annotations

import threading

import torch

__all__ = ["confine"]


def confine(threads: int) -> None:
    """Let the operations that this thread calls use so many threads, itself included; other threads keep theirs.

    `torch.set_num_threads` sets the number of the thread that calls it, for good, and that which later threads begin
    with. The second is put back by a thread made for it.
    """
    others = torch.get_num_threads()
    torch.set_num_threads(threads)
    again = threading.Thread(target=torch.set_num_threads, args=(others,))
    again.start()
    again.join()
