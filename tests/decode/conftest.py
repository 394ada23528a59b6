"""These tests compile the same few small programs over and over, and run each a few times."""

import pytest

from tests.compiled import quickly


@pytest.fixture(scope="package", autouse=True)
def quick_compilation(tmp_path_factory):
    with quickly(tmp_path_factory.mktemp("compiled")):
        yield
