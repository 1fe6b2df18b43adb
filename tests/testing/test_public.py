"""The names of :mod:`zpatterns.testing`: there, documented, and loaded only when they are used."""

from __future__ import annotations

import pytest

from tests.test_packaging import modules_after
from zpatterns import testing


def test_every_name_is_there_and_is_documented():
    for name in testing.__all__:
        assert getattr(testing, name).__doc__, name
    assert set(testing.__all__) <= set(dir(testing))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = testing.no_such_name


@pytest.mark.parametrize("code", ["import zpatterns.testing", "import zpatterns.testing.plugin"])
def test_importing_it_loads_nothing_of_the_network(code):
    loaded = modules_after(code)
    assert not loaded & {"zmq", "tornado", "structlog", "zpatterns.testing.guard", "zpatterns.testing.background"}
