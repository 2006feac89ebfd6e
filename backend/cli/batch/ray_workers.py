"""Share a batch among workers of Ray. Each has its engine in memory, and does one panorama at a time (`work.Work`)."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ....shared.file_errors import display_name
from ....shared.protocol.errors import BackendError, BackendLostError, PanoformError
from .display import Display
from .plan import Plan
from .ray_cluster import cluster, share
from .report import Report
from .work import Done, Failure, Work

#: How often a panorama is given to a worker, where workers end meanwhile.
_TRIES = 2
#: Seconds between looks at the workers.
_INTERVAL_S = 0.5


class State(msgspec.Struct):
    """What a worker does now; `fraction` in [0, 1] is how much of its panorama is done."""

    stage: str
    fraction: float = 0.0


class Actor:
    """What runs in a worker: one thread works, another tells the state meanwhile."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._work: Work | None = None
        self._state = State("Starting")

    def prepare(self, version: str) -> Failure | None:
        """Find the engine. Return why it can't be used, or that this is not Panoform `version`."""
        try:
            if (own := metadata.version("panoform")) != version:
                raise BackendError(
                    f"A worker has Panoform {own}, not {version}.", "Install the same version there as here."
                )
            self._work = Work(self._plan, self)
        except Exception as error:
            return Failure.of(error)
        return None

    def do(self, source: Path) -> Done | Failure:
        """Do a panorama, after `prepare`."""
        assert self._work is not None
        self._state = State(display_name(source.name))
        return self._work.do(source, self)

    def state(self) -> State:
        """Return what it does now."""
        return self._state

    # It is the ProgressReporter of its work.

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        self._state = State(f"{stage} {step}/{of}" if of else stage, fraction)

    def preview(self, name: str, picture: np.ndarray) -> None:
        pass

    def check_cancelled(self) -> None:
        pass


@dataclass(eq=False)
class _Worker:
    """A worker and what it does: a panorama, or (None) it prepares."""

    number: int
    actor: Any
    source: Path | None = None
    began: float = 0.0
    #: Its state, to come.
    asked: Any = None


def run(plan: Plan, report: Report, address: str, workers: int | None) -> None:
    """Do all panoramas with `workers` workers (None: one for each GPU, or one) of the cluster at `address`.

    A worker that ends is replaced, and its panorama done again, once. Raise BackendMissingError, BackendError,
    SettingError (`ray_cluster`), the error of a panorama that all others would share, and of the last worker to fail.
    """
    with cluster(address) as ray, Display(len(plan.sources)) as display:
        count, options = share(ray, plan.engine.device, workers)
        # The second thread answers `state`.
        actor = ray.remote(Actor).options(max_concurrency=2, scheduling_strategy="SPREAD", **options)
        _Batch(ray, plan, report, display, actor).run(min(count, len(plan.sources)))


class _Batch:
    """The panoramas that wait, and the workers that do the others."""

    def __init__(self, ray: Any, plan: Plan, report: Report, display: Display, actor: Any) -> None:
        self._ray, self._plan, self._report, self._display, self._actor = ray, plan, report, display, actor
        self._waiting = deque(plan.sources)
        self._given: Counter[Path] = Counter()
        self._done = 0
        self._numbers = itertools.count(1)
        #: By the result that is to come.
        self._busy: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._problem: PanoformError | None = None

    def run(self, workers: int) -> None:
        """Do all panoramas with this number of workers."""
        for _ in range(workers):
            self._start()
        while self._done < len(self._plan.sources):
            while self._waiting and self._idle:
                self._give(self._idle.pop(), self._waiting.popleft())
            if not self._busy:
                assert self._problem is not None
                raise self._problem
            finished, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_INTERVAL_S)
            for result in finished:
                self._take(self._busy.pop(result), result)
            if self._display.shown:
                self._show()

    def _start(self) -> None:
        worker = _Worker(next(self._numbers), self._actor.remote(self._plan))
        self._busy[worker.actor.prepare.remote(metadata.version("panoform"))] = worker

    def _give(self, worker: _Worker, source: Path) -> None:
        self._given[source] += 1
        worker.source, worker.began = source, time.monotonic()
        self._busy[worker.actor.do.remote(source)] = worker

    def _take(self, worker: _Worker, result: Any) -> None:
        """Take the result of a worker, or see that it ended."""
        source, worker.source = worker.source, None
        try:
            outcome = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            self._ended(worker, source, error)
            return
        if source is not None:
            self._add(source, outcome, worker.began)
        elif outcome is not None:
            self._drop(worker, outcome.error)
            return
        self._idle.append(worker)

    def _ended(self, worker: _Worker, source: Path | None, error: Exception) -> None:
        """Replace a worker that ended, and have its panorama done again, once."""
        self._ray.kill(worker.actor)  # where Ray reports an error of its own, it runs still
        if source is None:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._drop(worker, BackendError(f"A worker can't start: {reason}", "Install Panoform on its computer."))
            return
        self._display.remove(worker.number)
        self._start()
        if self._given[source] < _TRIES:
            self._tell(f"The worker of {display_name(source.name)} ended; it is done again.")
            self._waiting.appendleft(source)
            return
        lost = BackendLostError(
            "Its worker ended, twice.", "The log of its computer says why; where memory ran out, use fewer --workers."
        )
        self._add(source, Failure.of(lost), worker.began)

    def _drop(self, worker: _Worker, problem: PanoformError) -> None:
        """Do without a worker that can't work."""
        self._display.remove(worker.number)
        self._problem = problem
        if self._busy or self._idle:
            self._tell(f"Worker {worker.number} is not used. {problem}")

    def _add(self, source: Path, outcome: Done | Failure, began: float) -> None:
        self._done += 1
        with self._display.hidden():
            self._report.add(source, outcome, time.monotonic() - began)
        if isinstance(outcome, Failure) and outcome.ends_batch:
            raise outcome.error

    def _tell(self, text: str) -> None:
        with self._display.hidden():
            print(text, file=sys.stderr)

    def _show(self) -> None:
        """Show the states that have arrived, and ask for new ones; a worker that doesn't answer is not waited for."""
        self._display.batch(self._done)
        for worker in self._busy.values():
            if worker.asked is None:
                worker.asked = worker.actor.state.remote()
            elif self._ray.wait([worker.asked], timeout=0)[0]:
                try:
                    state = self._ray.get(worker.asked)
                except self._ray.exceptions.RayError:
                    continue  # it has ended, as its result will tell
                self._display.worker(worker.number, state.stage, state.fraction)
                worker.asked = None
