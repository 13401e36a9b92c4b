import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Return the directory of the compilation cache that all trainings of a test session share."""
    return tmp_path_factory.mktemp("xla")
