"""Which jobs may come in: those that fit into the queue, and can be through in time at the pace of late."""

from __future__ import annotations

from collections.abc import Callable

from certserve.errors import Infeasible, Overloaded
from certserve.sampling.pace import Pace
from certserve.sampling.scheduler import Scheduler

__all__ = ["Admission"]

_MARGIN = 0.8  # of the draws that fit by the best pace: what is advised should not miss the deadline


class Admission:
    """Refuses what would come to nothing, before it costs anything.

    Args:
        scheduler: whose draws wait. pace: at which they go. largest_queue, largest_jobs: see `Engine`. clock: seconds.
    """

    def __init__(
        self, scheduler: Scheduler, pace: Pace, largest_queue: int, largest_jobs: int, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._pace = pace
        self._largest_queue = largest_queue
        self._largest_jobs = largest_jobs
        self._clock = clock

    def check(self, jobs: int, n: int, n0: int, seconds: float | None, first_look: int) -> None:
        """Return if a job of n0 + n draws may come beside so many, and be at its first look in so many seconds.

        Raises:
            Infeasible, Overloaded: see `Engine.check_admission`.
        """
        self._check_room(jobs, n0 + n)
        self._pace.forget_old(self._clock())
        if seconds is not None and self._pace.rate:
            self._check_time(first_look, n0, seconds)

    def _check_room(self, jobs: int, draws: int) -> None:
        waiting = self._scheduler.waiting
        if draws > self._largest_queue:
            raise Infeasible(f"{draws} draws are more than this server queues; ask for at most {self._largest_queue}.")
        if waiting + draws > self._largest_queue or jobs >= self._largest_jobs:
            raise Overloaded(
                f"{waiting} draws are waiting; try again later.", retry_after=self._pace.seconds_for(waiting)
            )

    def _check_time(self, n: int, n0: int, seconds: float) -> None:
        if n + n0 > self._pace.best * seconds:
            fit = int(_MARGIN * self._pace.best * seconds) - n0
            advice = f"about {fit} do: ask for fewer draws, or allow" if fit > 0 else "none do: allow"
            raise Infeasible(
                f"{n} estimation draws do not fit into the {seconds:.3g} s that the deadline leaves, even when this "
                f"server is idle; {advice} more time."
            )
        ahead = self._scheduler.ahead_of(n0 + n)
        needed = self._pace.seconds_for(n0 + n + ahead)
        if ahead and needed > seconds:
            raise Overloaded(
                f"Other requests are ahead: this one would take about {needed:.1f} s, and the deadline leaves "
                f"{seconds:.3g} s; try again later.",
                retry_after=needed - seconds,
            )
