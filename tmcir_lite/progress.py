"""Progress of long work: a bar for a person at a terminal, a line every tenth in a log or a notebook."""

import sys
import time

from tqdm import tqdm


def watched() -> bool:
    """True when a person watches a terminal."""
    return sys.stderr.isatty()


class Progress:
    """Counts to `total`, of which `done` were there before; shows rate and time left."""

    def __init__(self, title: str, total: int, done: int = 0):
        self._title, self._total, self._start, self._done = title, total, done, done
        self._began, self._shown = time.perf_counter(), 10 * done // max(1, total)
        self._bar = tqdm(desc=title, total=total, initial=done, disable=not watched())

    def advance(self, count: int = 1) -> None:
        """Counts `count` more."""
        self._done += count
        self._bar.update(count)
        tenth = 10 * self._done // self._total
        if not watched() and tenth > self._shown:
            rate = (self._done - self._start) / max(1e-9, time.perf_counter() - self._began)
            left = (self._total - self._done) / rate
            print(f"{self._title} {self._done}/{self._total}  {rate:.0f}/s  {left:.0f} s left", flush=True)
        self._shown = tenth
        if self._done >= self._total:
            self._bar.close()
