"""Silence around somebody else's loading code, undone afterwards."""

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars, log lines and warnings inside the block, and nothing after it."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[io.StringIO]:
    """Collect what Python code writes to stderr inside the block: bars that no setting turns off."""
    collected = io.StringIO()
    with contextlib.redirect_stderr(collected):
        yield collected
