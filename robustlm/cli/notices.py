"""Messages on standard error: show this package's own, and hide warnings that users cannot act on."""

from __future__ import annotations

import logging
import re
import sys
import warnings

from robustlm.utils.ranks import is_first


def quiet() -> None:
    """Hide warnings that a user cannot act on."""
    for pattern in (
        ".*does not have many workers.*",
        ".*is_gradient_checkpointing.*",
        "The dirpath has changed from .*",
        ".*Total length of `(list|DataLoader)` across ranks is zero.*",  # no validation rows, or all answered
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        "pkg_resources is deprecated as an API",  # from a library that reads versions through an older setuptools
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search(r"litlogger|available: False|^Loading `train_dataloader`", record.getMessage())
    )


class _Notices(logging.Handler):
    """Prints the package's messages to standard error; below the level of a warning, only on the first rank."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or is_first():
            print(self.format(record), file=sys.stderr)


def speak() -> None:
    """Show this package's notices; by default, Python hides messages below the level of a warning."""
    logger = logging.getLogger("robustlm")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notices) for handler in logger.handlers):
        logger.addHandler(_Notices())
