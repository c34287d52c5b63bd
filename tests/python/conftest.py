"""Settings for every Python test: what imports left behind is taken out of the garbage collector's rounds."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _frozen_imports() -> None:
    gc.collect()
    gc.freeze()
