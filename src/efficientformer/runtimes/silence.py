"""Other people's libraries, kept quiet while they convert and load: what matters comes as an error."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def quiet_python() -> Generator[None]:
    """No logging, no warnings, nothing printed; handlers that a library adds to the root logger go again."""
    disabled, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


@contextlib.contextmanager
def quiet_native() -> Generator[None]:
    """Native code writes to the descriptor of standard error, past Python: it leads nowhere meanwhile."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
