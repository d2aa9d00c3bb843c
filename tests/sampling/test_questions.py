"""Questions that are not draws: bounded, in turn with batches, asked again once, and gone with their caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from certserve.errors import BackendFailed, Overloaded, Unavailable
from certserve.sampling.engine import Engine
from certserve.sampling.executor import ThreadExecutor
from certserve.sampling.questions import Questions
from certserve.sampling.sampler import Sampler


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30.0))


def answer(executor: Any) -> None:
    """Answer everything that was asked: each question twice over."""
    while executor.asked:
        question, future = executor.asked.pop(0)
        if future.set_running_or_notify_cancel():
            future.set_result(2 * question)


def test_pieces_are_answered_in_order_and_few_are_asked_at_once(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor(parallel=2)
        questions = Questions(Engine(executor), executor)
        task = asyncio.create_task(questions.ask(["a", "b", "c", "d", "e"], 9))
        await executor.settle()
        assert [question for question, _ in executor.asked] == ["a", "b", "c"]
        assert questions.rows == 9
        while not task.done():
            answer(executor)
            await executor.settle()
        assert task.result() == ["aa", "bb", "cc", "dd", "ee"]
        assert questions.rows == 0

    run(test)


def test_too_many_images_are_refused_and_none_is_counted(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor()
        questions = Questions(Engine(executor), executor, largest_rows=10)
        task = asyncio.create_task(questions.ask(["a"], 7))
        await executor.settle()
        questions.check_room(3)
        with pytest.raises(Overloaded, match="7 images are waiting") as refused:
            await questions.ask(["b"], 4)
        assert refused.value.retry_after > 0
        answer(executor)
        assert await task == ["aa"]
        questions.check_room(10)

    run(test)


def test_a_question_is_answered_before_the_next_batch(bench: Any, models: ModuleType) -> None:
    """On threads, while a large job runs: fails if batches that have not begun go first."""
    ran: list[str] = []
    linear, running, go = models.linear((1, 2, 2)), threading.Event(), threading.Event()

    class Backend:
        shape, num_classes = linear.shape, linear.num_classes

        def logits(self, pixels: Any) -> Any:
            ran.append("batch")
            running.set()
            assert go.wait(30.0)
            return linear.logits(pixels)

    def reply(question: str) -> str:
        ran.append("question")
        return question + question

    async def test() -> None:
        with ThreadPoolExecutor(1) as device:
            executor = ThreadExecutor(Sampler(Backend(), (8,)), device, reply)
            engine = Engine(executor)
            job = asyncio.create_task(engine.run(bench.job(7, 0, (40,))))
            assert await asyncio.to_thread(running.wait, 30.0)
            task = asyncio.create_task(Questions(engine, executor).ask(["a"], 1))
            await asyncio.sleep(0.05)
            go.set()
            assert await task == ["aa"]
            await job
            await engine.close()

    run(test)
    assert ran == ["batch", "question", *["batch"] * 4]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failure_is_asked_again_once(bench: Any, failures: int) -> None:
    async def test() -> None:
        executor = bench.executor()
        questions = Questions(Engine(executor), executor)
        task = asyncio.create_task(questions.ask(["a"], 1))
        for _ in range(failures):
            await executor.settle()
            executor.asked.pop()[1].set_exception(BackendFailed("told to"))
        await executor.settle()
        answer(executor)
        if failures == 1:
            assert await task == ["aa"]
        else:
            with pytest.raises(BackendFailed, match="failed on this request's images, twice"):
                await task
        assert questions.rows == 0

    run(test)


def test_who_goes_away_leaves_nothing_behind(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor()
        questions = Questions(Engine(executor), executor)
        task = asyncio.create_task(questions.ask(["a", "b", "c"], 3))
        await executor.settle()
        task.cancel()
        await executor.settle()
        assert task.cancelled()
        assert all(future.cancelled() for _, future in executor.asked)
        assert len(executor.asked) == 2
        assert questions.rows == 0

    run(test)


def test_the_end_of_the_engine_ends_questions(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor()
        engine = Engine(executor)
        questions = Questions(engine, executor)
        task = asyncio.create_task(questions.ask(["a"], 1))
        await executor.settle()
        await engine.close()
        with pytest.raises(Unavailable):
            await task
        with pytest.raises(Unavailable):
            questions.check_room(0)

    run(test)
