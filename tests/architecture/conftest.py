import pytest

from tests.architecture.house import House
from tests.architecture.repository import ROOT


@pytest.fixture(scope="session")
def house() -> House:
    """The repository's own."""
    return House.at(ROOT)
