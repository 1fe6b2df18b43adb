"""One tree of errors, each of which carries its data and is also the built-in that a person would catch."""

from __future__ import annotations

import inspect
import pickle

import pytest

from zpatterns import errors
from zpatterns.errors import (
    ClosedError,
    CompareFailed,
    EndpointError,
    ForkedError,
    PromotionRefused,
    QueueFull,
    RemoteError,
    RequestTimeout,
    ServiceNotFound,
    StoreError,
    WatchOverflow,
    ZPatternsError,
)

BUILT_INS = [
    (RequestTimeout, TimeoutError),
    (ServiceNotFound, LookupError),
    (RemoteError, RuntimeError),
    (QueueFull, BlockingIOError),
    (ClosedError, ConnectionError),
    (EndpointError, ValueError),
    (ForkedError, RuntimeError),
    (PromotionRefused, RuntimeError),
    (CompareFailed, RuntimeError),
    (WatchOverflow, BufferError),
    (StoreError, OSError),
]


def all_errors() -> list[type[Exception]]:
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if value.__module__ == "zpatterns.errors" and issubclass(value, Exception)
    ]


def test_every_error_stands_in_the_one_tree():
    assert len(all_errors()) >= 8
    for kind in all_errors():
        assert issubclass(kind, ZPatternsError)


def test_every_error_but_the_root_has_a_built_in():
    assert {kind for kind, _ in BUILT_INS} == set(all_errors()) - {ZPatternsError}


@pytest.mark.parametrize(("kind", "built_in"), BUILT_INS)
def test_an_error_is_also_the_built_in_that_a_person_would_catch(kind, built_in):
    assert issubclass(kind, built_in)
    error = kind("E42", "text") if kind is RemoteError else kind("text")
    with pytest.raises(built_in):
        raise error


@pytest.mark.parametrize("kind", [kind for kind, _ in BUILT_INS if kind is not RemoteError])
def test_an_error_carries_its_data(kind):
    error = kind("what happened", endpoint="tcp://h:1", service="echo", attempts=2, elapsed=1.5)
    assert str(error) == "what happened"
    assert (error.endpoint, error.service, error.attempts, error.elapsed) == ("tcp://h:1", "echo", 2, 1.5)


@pytest.mark.parametrize("kind", [kind for kind, _ in BUILT_INS if kind is not RemoteError])
def test_data_that_does_not_apply_is_none(kind):
    error = kind("text")
    assert (error.endpoint, error.service, error.attempts, error.elapsed) == (None, None, None, None)


def test_a_remote_error_says_who_answered_what():
    error = RemoteError("ValueError", "no such thing", service="echo", attempts=1, elapsed=0.5, endpoint="tcp://h:1")
    assert (error.code, error.message) == ("ValueError", "no such thing")
    assert (error.endpoint, error.service, error.attempts, error.elapsed) == ("tcp://h:1", "echo", 1, 0.5)
    assert str(error) == "service 'echo' answered with error ValueError: no such thing"
    assert "the server" in str(RemoteError("500", "text"))


@pytest.mark.parametrize("kind", [kind for kind, _ in BUILT_INS])
def test_an_error_survives_pickling(kind):
    """Handlers and callers live in process pools too."""
    if kind is RemoteError:
        error: ZPatternsError = RemoteError("E42", "what happened", service="echo", attempts=2, elapsed=1.5)
    else:
        error = kind("what happened", service="echo", attempts=2, elapsed=1.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.service, copy.attempts, copy.elapsed) == ("echo", 2, 1.5)
    if isinstance(error, RemoteError):
        assert (copy.code, copy.message) == ("E42", "what happened")


def test_a_comparison_that_failed_says_what_the_key_has():
    assert CompareFailed("text").sequence == 0
    assert pickle.loads(pickle.dumps(CompareFailed("text", sequence=7))).sequence == 7
