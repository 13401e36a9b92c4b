import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where the trainings of a session keep their compiled programs."""
    return tmp_path_factory.mktemp("xla")
