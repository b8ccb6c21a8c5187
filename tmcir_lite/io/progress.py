"""Progress of long work: a bar for a person at a terminal, a line every tenth in a log or a notebook."""

import sys
import time

from tqdm import tqdm


def watched() -> bool:
    """True when a person watches a terminal."""
    return sys.stderr.isatty()


class Progress:
    """Counts to `total`; shows rate and time left, unless `quiet` (one of several processes speaks for all)."""

    def __init__(self, title: str, total: int, quiet: bool = False):
        self._title, self._total, self._done, self._quiet = title, total, 0, quiet
        self._began, self._shown = time.perf_counter(), 0
        self._bar = tqdm(desc=title, total=total, disable=quiet or not watched())

    def advance(self, count: int = 1) -> None:
        """Counts `count` more."""
        self._done += count
        self._bar.update(count)
        tenth = 10 * self._done // self._total
        if not self._quiet and not watched() and tenth > self._shown:
            rate = self._done / max(1e-9, time.perf_counter() - self._began)
            left = (self._total - self._done) / rate
            print(f"{self._title} {self._done}/{self._total}  {rate:.3g}/s  {left:.0f} s left", flush=True)
        self._shown = tenth
        if self._done >= self._total:
            self._bar.close()
