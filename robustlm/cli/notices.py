"""What is said on standard error, and what a user can do nothing about."""

from __future__ import annotations

import logging
import re
import sys
import warnings

from robustlm.utils.ranks import is_first


def quiet() -> None:
    """Silence what a user can do nothing about."""
    for pattern in (
        ".*does not have many workers.*",
        ".*is_gradient_checkpointing.*",
        "The dirpath has changed from .*",
        ".*Total length of `(list|DataLoader)` across ranks is zero.*",  # no validation rows; all answered before
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        "pkg_resources is deprecated as an API",  # of a library that asks an older setuptools for versions
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search(r"litlogger|available: False|^Loading `train_dataloader`", record.getMessage())
    )


class _Notices(logging.Handler):
    """Prints what the package has to say on standard error; what is no warning, on the first rank alone."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or is_first():
            print(self.format(record), file=sys.stderr)


def speak() -> None:
    """Show notices of this package, which Python hides below the level of a warning."""
    logger = logging.getLogger("robustlm")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notices) for handler in logger.handlers):
        logger.addHandler(_Notices())
