"""Starting a contestant in a process of its own, asking it for laps, and finding out why it failed."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from headlens.bench_job import Job, Lap

# -P: the folder that the bench is run in may hold packages of any name
_COMMAND = [sys.executable, "-P", "-c", "from headlens.bench_worker import main; main()"]
_LONGEST = 300


class Failed(Exception):
    """A contestant's process has ended; the message says why, in a sentence."""


@contextlib.contextmanager
def contestant(job: Job) -> Iterator[tuple[Lap, Callable[[], Lap]]]:
    """A process for the job, with its first, untimed lap and the function that asks it for another.

    Raises Failed, here or when it is asked, if the process ends. It is gone after the block.
    """
    # weights are on this machine by now
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, encoding="utf-8"
        )
        assert process.stdin is not None and process.stdout is not None
        line, answers = process.stdin, process.stdout

        def ask(words: str) -> Lap:
            with contextlib.suppress(BrokenPipeError):
                line.write(words + "\n")
                line.flush()
            answer = answers.readline()
            if not answer:
                raise Failed(_reason(process.wait(), errors))
            return Lap.from_json(answer)

        try:
            yield ask(job.to_json()), lambda: ask("again")
        finally:
            process.kill()
            process.wait()
            answers.close()
            with contextlib.suppress(BrokenPipeError):
                line.close()


def _reason(code: int, errors: IO[bytes]) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    errors.seek(0)
    written = [text for text in errors.read().decode(errors="replace").splitlines() if text.strip()]
    return written[-1].strip()[:_LONGEST] if written else f"its process ended with exit code {code}"
