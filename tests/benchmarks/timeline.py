"""When the driver and the workers of Ray had what to do, and what it took.

The workers note the beginning and the end of what they are asked for, with how long
they ran until then and how long they could have run but waited for a processor that
others had (Linux keeps both). So what a run takes on a machine of its own can be told
on one that is shared.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import robustkit as rk
from robustkit.evaluation import ray_engine
from robustkit.evaluation.ray_worker import Worker

__all__ = ["NOTES", "Span", "Timeline", "recorded"]

NOTES = "ROBUSTKIT_TIMELINE"
"""Variable of the environment: a folder, to be set before Ray is started."""


@dataclass(frozen=True)
class Span:
    """Of one process, doing one thing.

    Attributes:
        pid: Of the process.
        what: It does.
        begin: By the clock of the machine, in seconds.
        end: As begin.
        ran: Seconds of processor time of the main thread.
        waited: Seconds that it waited for a processor.
    """

    pid: int
    what: str
    begin: float
    end: float
    ran: float
    waited: float


class _Clock:
    """Makes spans, each from the end of the last one or from `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._since = self.now()

    def span(self, what: str) -> Span:
        before, self._since = self._since, self.now()
        begin, ran, waited = before
        end, ran_now, waited_now = self._since
        return Span(os.getpid(), what, begin, end, ran_now - ran, waited_now - waited)

    @staticmethod
    def now() -> tuple[float, float, float]:
        ran, waited, _ = map(int, Path("/proc/self/schedstat").read_text().split())
        return time.time(), ran / 1e9, waited / 1e9


class _Noting(Worker):
    """A worker that notes what it does in a file of its own."""

    def __init__(self, *args: Any) -> None:
        self._clock = _Clock()
        # All that it took to get here.
        _, ran, waited = self._clock.now()
        now = time.time()
        self._note(Span(os.getpid(), "start", now - _age(), now, ran, waited))
        super().__init__(*args)

    def ready(self, *args: Any) -> None:
        self._clock.start()
        super().ready(*args)
        self._note(self._clock.span("load"))

    def do(self, *args: Any) -> Any:
        self._clock.start()
        found = super().do(*args)
        self._note(self._clock.span("part"))
        return found

    def _note(self, span: Span) -> None:
        with open(Path(os.environ[NOTES]) / f"{os.getpid()}.json", "a") as file:
            file.write(json.dumps(vars(span)) + "\n")


def _age() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")


class _Engine(rk.RayEngine):
    """Notes when it is asked."""

    def run(self, *args: Any) -> None:
        _DRIVER.append(_CLOCK.span("before"))
        super().run(*args)


_CLOCK, _DRIVER = _Clock(), list[Span]()


def recorded(
    evaluate: Callable[[rk.RayEngine, Callable[[Any], None]], rk.Results],
    workers: int,
) -> tuple[rk.Results, "Timeline"]:
    """Evaluate, and note what is done when.

    Args:
        evaluate: Called with the engine and with what to tell of progress.
        workers: How many.
    """
    folder = Path(os.environ[NOTES])
    for path in folder.glob("*.json"):
        path.unlink()
    plain, ray_engine.Worker = ray_engine.Worker, _Noting
    _DRIVER.clear()
    _CLOCK.start()
    try:
        results = evaluate(
            _Engine(workers=workers), lambda _: _DRIVER.append(_CLOCK.span("keeping"))
        )
    finally:
        ray_engine.Worker = plain
    _DRIVER.append(_CLOCK.span("after"))
    crew = [
        [Span(**json.loads(line)) for line in path.read_text().splitlines()]
        for path in folder.glob("*.json")
    ]
    return results, Timeline(list(_DRIVER), crew)


@dataclass(frozen=True)
class Timeline:
    """Of one run.

    Attributes:
        driver: Before the engine's work, for each part that is kept, and after them.
        workers: Each one's start, loading and parts.
    """

    driver: list[Span]
    workers: list[list[Span]]

    @property
    def whole(self) -> float:
        """Seconds from the call to its return."""
        return self.driver[-1].end - self.driver[0].begin

    @property
    def attacking(self) -> float:
        """Seconds from the beginning of the first part to the end of the last one."""
        parts = self._parts()
        return max(p.end for p in parts) - parts[0].begin

    def predicted(self, workers: int) -> dict[str, float]:
        """Seconds by the clock on a machine with nothing else to do.

        They are those of processor time here. Parts go in their order to whichever
        worker is free.
        """
        starts = [
            sum(s.ran for s in spans if s.what != "part") for spans in self.workers
        ]
        free = [0.0] * workers
        for part in self._parts():
            free.sort()
            free[0] += part.ran
        return {
            "before": self.driver[0].ran,
            "start": max(starts),
            "parts": max(free),
            "after": self.driver[-1].ran,
        }

    def said(self) -> str:
        """Where the time went, in words."""
        parts = self._parts()
        ran, waited = (sum(getattr(p, k) for p in parts) for k in ("ran", "waited"))
        last = max(p.end for p in parts)
        idle = [
            last
            - spans[1].end
            - sum(s.end - s.begin for s in spans if s.what == "part")
            for spans in self.workers
        ]
        return (
            f"{len(parts)} parts ran {ran:.2f} s ({min(p.ran for p in parts):.2f} to "
            f"{max(p.ran for p in parts):.2f} each) and waited {waited:.2f} s for a "
            f"processor; once loaded, workers had none for "
            f"{', '.join(f'{seconds:.2f}' for seconds in idle)} s"
        )

    def chart(self, width: int = 64) -> str:
        """A line for each process: what it does, by first letters; parts are = or #."""
        # In between it waits for workers, but for keeping what they found.
        driver = [self.driver[0], self.driver[-1]]
        lines = [("driver", driver), *(("worker", w) for w in self.workers)]
        return "\n".join(f"  {who:7}|{self._line(s, width)}|" for who, s in lines)

    def _line(self, spans: list[Span], width: int) -> str:
        signs = [" "] * width
        begin, scale = self.driver[0].begin, width / self.whole
        odd = False
        for span in spans:
            sign = span.what[0]
            if span.what == "part":
                # So that parts can be told apart.
                sign, odd = "=#"[odd], not odd
            first, last = (int((at - begin) * scale) for at in (span.begin, span.end))
            for place in range(max(first, 0), min(last + 1, width)):
                signs[place] = sign
        return "".join(signs)

    def _parts(self) -> list[Span]:
        parts = [s for spans in self.workers for s in spans if s.what == "part"]
        return sorted(parts, key=lambda span: span.begin)
