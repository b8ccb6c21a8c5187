"""Reading tables that a run or a study left."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tmcir_lite.io.files import InputError


def read_table(
    path: Path, columns: Sequence[str] = (), rows: int | None = None, made_by: str | None = None
) -> pd.DataFrame:  # fmt: skip
    """A CSV file, or its first `rows`; a commit of digits only is read as text, too.

    Args:
        made_by: the command that writes it, which the error names where it is absent.

    Raises:
        InputError: it is absent, is no table, or lacks one of `columns`.
    """
    if made_by and not path.is_file():
        raise InputError(f"{path}: no such table; `{made_by}` makes it")
    try:
        table = pd.read_csv(path, dtype={"commit": str}, nrows=rows)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' own are ValueErrors
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise InputError(f"{path}: not readable as a table ({' '.join(str(reason).split())}); {_REMEDY}") from None
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise InputError(f"{path}: has no column {', '.join(lacking)}; {_REMEDY}")
    return table


_REMEDY = "restore it, or remove it and run again what writes it"
