"""One thread's operations are confined, and no other's."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from certserve.backends.threads import confine  # noqa: E402 (after the check that torch is there)


def test_other_threads_keep_theirs() -> None:
    before = torch.get_num_threads()
    wanted = before + 1
    found: dict[str, int] = {}
    ready, done = threading.Event(), threading.Event()

    def confined() -> None:
        confine(wanted)
        ready.set()
        assert done.wait(30)
        found["confined"] = torch.get_num_threads()

    def later() -> None:
        found["later"] = torch.get_num_threads()

    first = threading.Thread(target=confined)
    first.start()
    assert ready.wait(30)
    second = threading.Thread(target=later)
    second.start()
    second.join()
    done.set()
    first.join()
    assert found == {"confined": wanted, "later": before}
    assert torch.get_num_threads() == before
