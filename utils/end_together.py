"""End all processes of a run when one of them fails or is killed, with one sentence."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from utils.cli import leave_for
from utils.errors import LOST_PROCESS, has_lost_process, sentence_of
from utils.launchers import GRACE_S, is_first_to_fail, launched_rank, launcher

_POLL_S = 0.2


class EndTogether(Callback):
    """End all processes when one of them fails, with its exit code.

    The one that fails first prints the error. For one that was killed, the process that started it
    does, or the second one for the first. Only the first process may have to clean up files.

    The attributes are those of the process, which may have several trainers one after the other.
    """

    _children: ClassVar[list[subprocess.Popen[bytes]]] = []
    _lost: ClassVar[list[int]] = []  # exit codes
    _is_lost = threading.Event()
    _is_over = threading.Event()  # the training, or all of the run
    _ending = threading.Lock()  # of the first thread that ends this process

    def watch(self, trainer: Trainer) -> None:
        """Watch the processes that Lightning is going to start, or the one that started this one.

        Another launcher ends its processes itself.
        """
        self._is_over.clear()
        if trainer.world_size == 1 or launcher() not in (None, "Lightning") or self._children:
            return
        if trainer.local_rank == 0:
            _in_background(self._watch_children, trainer.strategy)
        else:
            _in_background(self._watch_parent, os.getppid())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_over.set()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.world_size > 1 and not isinstance(exception, SystemExit):
            self._let_first_report(exception)
        self._is_over.set()
        for child in self._children:
            child.kill()  # a process that waits for another one reacts to no other signal
        if self._lost:
            sys.exit(self._lost[0])

    def _let_first_report(self, exception: BaseException) -> None:
        """Wait for the end of a process that has failed before; its launcher may end this one."""
        if _is_of_another(exception):
            self._is_lost.wait(GRACE_S)
        if self._lost:
            return
        if not is_first_to_fail():
            if not self._is_lost.wait(GRACE_S):
                self._lost.append(LOST_PROCESS)
        elif launched_rank() > 0 and isinstance(exception, Exception):
            leave_for(exception)  # before the others end this process, which has no files

    def _watch_children(self, strategy: Any) -> None:
        while len(strategy.launcher.procs) < strategy.num_processes - 1:
            time.sleep(_POLL_S)
        self._children.extend(strategy.launcher.procs)
        # Lightning would kill this process without a word, if it still had the list.
        strategy.launcher.procs.clear()
        for number, child in enumerate(self._children, 1):
            _in_background(self._watch_child, number, child)

    def _watch_child(self, number: int, child: "subprocess.Popen[bytes]") -> None:
        code = child.wait()
        if code > 0:
            self._end(code)
        elif code < 0:
            name = f"process {number} of the run (pid {child.pid})"
            self._end(LOST_PROCESS, f"{name} was killed by {signal.Signals(-code).name}")

    def _watch_parent(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        text = f"the first process of the run (pid {parent}) was killed"
        self._end(LOST_PROCESS, text if launched_rank() == 1 else "")

    def _end(self, code: int, text: str = "") -> None:
        """End this process, by an exception if it is not waiting for another process forever."""
        if self._is_over.is_set() or not self._ending.acquire(blocking=False):
            return
        # The first process takes the store with it, which notes who fails first.
        if text and (not self._children or is_first_to_fail()):
            why = "perhaps because the memory is full: use a lower --batch_size or --num_workers"
            text += f", {why}; the same command with --resume auto resumes"
            print(f"\nerror: {text}", file=sys.stderr, flush=True)
        self._lost.append(code)
        self._is_lost.set()
        time.sleep(GRACE_S)
        for child in self._children:
            child.kill()
        os._exit(code)


def _is_of_another(exception: BaseException) -> bool:
    """Return whether an error may be due to the end of another process."""
    if not isinstance(exception, RuntimeError):
        return False
    return has_lost_process(exception) or not sentence_of(exception)


def _in_background(work: Any, *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
