"""When a run ends before its last step, and with which exit code. Torch-free.

A signal may reach one rank or all, once or often, at any moment. A handler only counts it; what each rank was told is summed
over all ranks together with the step's loss (`step.run`), so that all ranks know at the same step that the run is to end,
for three more numbers in a message that is sent anyway.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from megatron_ft import cli
from megatron_ft.errors import TrainingError

REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
STEPS_REMEMBERED = 8
STARTED = 19  # place of "starttime" in /proc/PID/stat behind the program's name, see proc(5)
SAVES_SPARED = 2  # one that is being written when the time is up, and the last


@dataclasses.dataclass(frozen=True)
class End:
    """How a run ended."""

    why: str
    exit_code: int


class Signals:
    """What this process was told by signals."""

    def __init__(self, *, speaks: bool = False) -> None:
        """
        Args:
            speaks: answer Ctrl-C on stderr; for one process of the run.
        """
        self.requeue, self.interrupt = False, False
        self.is_training = False
        """Ctrl-C ends the process at once while this is False: there is nothing to save."""
        self._speaks = speaks

    def listen(self) -> None:
        """Take SIGUSR1, SIGTERM and SIGINT from now on; in the main thread."""
        for number in REQUEUE_SIGNALS:
            signal.signal(number, self._told)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in a job that a shell script has put into the background
            signal.signal(signal.SIGINT, self._interrupted)
        _let_children_ignore(signal.SIGUSR1)

    def stop_listening(self) -> None:
        """The run is over: a signal that comes now changes nothing, least of all the exit code."""
        for number in REQUEUE_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self.is_training = False

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self.requeue = True

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if not self.is_training:
            raise KeyboardInterrupt
        self.interrupt = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends the process at once, whatever it is in
        if self._speaks:
            os.write(2, b"\nCtrl-C: the run saves a checkpoint and ends; once more ends it at once, without one\n")


class Ending:
    """Whether the run is to end, as all ranks agree at each step: every rank has one, and asks it at the same places."""

    def __init__(self, signals: Signals | None = None, *, limit_s: float = 0.0, age_s: Callable[[], float] = time.monotonic,
                 keeps_time: bool = False) -> None:
        """
        Args:
            limit_s: age that the process is not to reach, its last save included; 0: no limit.
            age_s: seconds that the run has had so far.
            keeps_time: this rank's clock decides; one rank's does.
        """
        self.signals = signals or Signals()
        self.agreed: End | None = None
        self.save_s = 0.0
        """The longest save so far; it is not known before the first."""
        self._limit_s, self._age_s = limit_s if keeps_time else 0.0, age_s
        self._limit_minutes = limit_s / 60
        self._steps_s: collections.deque[float] = collections.deque(maxlen=STEPS_REMEMBERED)

    def begin(self, sums: Sequence[float]) -> None:
        """Hear what ranks were told while the run was loaded; from now on there is work that Ctrl-C must not throw away.

        TrainingError where the time is up before the first step: queued again, the run would never get further.
        """
        self.signals.is_training = True
        self.hear(sums)
        if sums[2]:
            raise TrainingError(f"run.max_minutes: {self._limit_minutes:g} minutes were over before the first step, and would "
                                "be each time the run is started again; raise it")

    def took(self, step_s: float) -> None:
        """Take note of a step's duration."""
        self._steps_s.append(step_s)

    def told(self) -> list[float]:
        """What this rank has to say, as numbers to be summed over all ranks: requeue, interrupt, time is up."""
        return [float(self.signals.requeue), float(self.signals.interrupt), float(self._time_is_up())]

    def hear(self, sums: Sequence[float]) -> None:
        """The sums over all ranks, the same on each: the run ends once any rank has said so."""
        requeue, interrupt, time_is_up = sums
        if self.agreed is not None:
            return
        if interrupt:
            self.agreed = End("interrupted by Ctrl-C", cli.EXIT_INTERRUPTED)
        elif requeue:
            self.agreed = End(f"told to end by SIGUSR1 or SIGTERM on {requeue:.0f} rank{'s' if requeue > 1 else ''}",
                              cli.EXIT_REQUEUE)
        elif time_is_up:
            self.agreed = End(f"run.max_minutes={self._limit_minutes:g} leaves no time for another step and its checkpoint",
                              cli.EXIT_REQUEUE)

    def _time_is_up(self) -> bool:
        # Asked at the end of a step: if the run went on, it would be asked again at the end of the next.
        ahead = max(self._steps_s, default=0.0) + SAVES_SPARED * self.save_s
        return 0 < self._limit_s < self._age_s() + ahead


def process_age() -> Callable[[], float]:
    """Seconds since this process was started, its imports included: a clock that adjusting the time of day leaves alone."""
    # psutil's create_time is right to a second only: it adds to the time of the boot, which the kernel tells in whole seconds.
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[STARTED]) / os.sysconf("SC_CLK_TCK")
    before = max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    now = time.monotonic()
    return lambda: before + time.monotonic() - now


def _let_children_ignore(number: signal.Signals) -> None:
    """Let the programs that this process starts from now on not see a signal; this process goes on to.

    SLURM sends it to all processes of a step, and it ends those that do not expect it: a tracker's, a compiler's. Which
    signals are blocked is inherited by other programs, handlers are not. So it is blocked here but in one thread.
    """
    ready = threading.Event()

    def take() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        ready.set()
        threading.Event().wait()

    threading.Thread(target=take, name="signals", daemon=True).start()
    ready.wait()
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
