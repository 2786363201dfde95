"""What a worker process may change for good, and a test may not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    log = logging.getLogger("lightning.pytorch")
    level, environment = log.level, dict(os.environ)
    yield
    log.setLevel(level)
    os.environ.clear()
    os.environ.update(environment)
