"""The book of calls: what R1 and R2 forbid is noticed, and what they allow is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.testing import Ledger, Node, World
from zpatterns.testing.ledger import Call, HandlerRun


class Bare(Node):
    def boot(self) -> None:
        """Nothing to make."""


class Book:
    """A ledger, a caller and a worker."""

    def __init__(self) -> None:
        self.world = World(1)
        self.ledger = Ledger(self.world)
        self.caller, self.worker = Bare(self.world, "caller"), Bare(self.world, "worker")
        self.caller.start()
        self.worker.start()

    def call(self, service: str = "echo", timeout: float = 10.0) -> Call:
        return self.ledger.begin(self.caller, service, timeout)

    def run(self, call: Call) -> HandlerRun:
        run = self.ledger.run(self.worker, call.service, list(call.body))
        assert run is not None
        return run

    @property
    def broken(self) -> str | None:
        return None if self.world.violation is None else self.world.violation.promise


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_reply_that_is_what_the_handler_said_is_right(book):
    call = book.call()
    book.ledger.reply(call, book.run(call).returns(2))
    book.world.clock.advance(20.0)
    book.ledger.check_open()
    assert book.broken is None
    assert call.outcome == "reply"
    assert book.ledger.open_calls == []


def test_parts_and_the_last_make_one_reply_whether_apart_or_together(book):
    for apart in (True, False):
        call = book.call()
        run = book.run(call)
        parts = [run.says(0), run.says(1), run.returns(0)]
        if apart:
            for part in parts[:-1]:
                book.ledger.part(call, part)
            book.ledger.reply(call, parts[-1])
        else:
            book.ledger.reply(call, [frame for part in parts for frame in part])
    assert book.broken is None


def test_either_of_two_runs_may_have_said_it(book):
    call = book.call()
    book.run(call).returns(0)
    book.ledger.reply(call, book.run(call).returns(1))
    assert book.broken is None


def give_anothers_reply(book: Book) -> None:
    call, other = book.call(), book.call()
    book.ledger.reply(call, book.run(other).returns(0))


def give_what_nobody_said(book: Book) -> None:
    call = book.call()
    book.run(call)
    book.ledger.reply(call, [b"a:1:1:0"])


def give_half_of_it(book: Book) -> None:
    call = book.call()
    run = book.run(call)
    run.says(0)
    book.ledger.reply(call, run.returns(0))


def give_it_twice(book: Book) -> None:
    call = book.call()
    reply = book.run(call).returns(0)
    book.ledger.reply(call, reply + reply)


def mix_two_runs(book: Book) -> None:
    call = book.call()
    one, other = book.run(call), book.run(call)
    book.ledger.part(call, one.says(0))
    book.ledger.reply(call, other.returns(0))


def end_before_the_handler(book: Book) -> None:
    call = book.call()
    book.ledger.reply(call, book.run(call).says(0))


def give_anothers_error(book: Book) -> None:
    call, other = book.call(), book.call()
    book.run(call)
    book.ledger.error(call, RemoteError("Boom", book.run(other).raises()))


def end_with_a_hole(book: Book) -> None:
    call = book.call()
    run = book.run(call)
    book.ledger.part(call, run.says(0))
    run.says(0)
    book.ledger.part(call, run.says(0))
    book.ledger.error(call, RequestTimeout("late"))


@pytest.mark.parametrize(
    "happens",
    [
        give_anothers_reply,
        give_what_nobody_said,
        give_half_of_it,
        give_it_twice,
        mix_two_runs,
        end_before_the_handler,
        give_anothers_error,
        end_with_a_hole,
    ],
)
def test_a_wrong_reply_breaks_r1(book, happens: Callable[[Book], None]):
    happens(book)
    assert book.broken == "R1"


def end_twice(book: Book) -> None:
    call = book.call()
    book.ledger.error(call, RequestTimeout("late"))
    book.ledger.error(call, RequestTimeout("late"))


def answer_a_cancelled_call(book: Book) -> None:
    call = book.call()
    book.ledger.cancel(call)
    book.ledger.reply(call, book.run(call).returns(0))


def bring_a_part_after_the_end(book: Book) -> None:
    call = book.call()
    book.ledger.error(call, RequestTimeout("late"))
    book.ledger.part(call, book.run(call).says(0))


def end_too_late(book: Book) -> None:
    call = book.call(timeout=1.0)
    book.world.clock.advance(1.001)
    book.ledger.error(call, RequestTimeout("late"))


def never_end(book: Book) -> None:
    book.call(timeout=1.0)
    book.world.clock.advance(1.5)
    book.ledger.check_open()


def end_with_an_error_of_nobodys(book: Book) -> None:
    book.ledger.error(book.call(), KeyError("ours?"))


@pytest.mark.parametrize(
    "happens",
    [
        end_twice,
        answer_a_cancelled_call,
        bring_a_part_after_the_end,
        end_too_late,
        never_end,
        end_with_an_error_of_nobodys,
    ],
)
def test_a_wrong_end_breaks_r2(book, happens: Callable[[Book], None]):
    happens(book)
    assert book.broken == "R2"


def test_a_stopped_process_is_given_until_it_goes_on(book):
    call = book.call(timeout=1.0)
    book.caller.pause()
    book.world.clock.advance(5.0)
    book.ledger.check_open()
    book.caller.resume()
    book.ledger.error(call, RequestTimeout("late"))
    assert book.broken is None


def test_the_calls_of_a_dead_process_have_no_outcome(book):
    call = book.call(timeout=1.0)
    book.ledger.abandon(book.caller)
    book.world.clock.advance(5.0)
    book.ledger.check_open()
    assert book.broken is None
    assert call.closed


@pytest.mark.parametrize(
    ("service", "body"), [("echo", [b"q:77"]), ("other", [b"q:1"]), ("echo", [b"q:1", b"more"]), ("echo", [])]
)
def test_a_run_that_nobody_asked_for_breaks_r4(book, service, body):
    book.call()
    book.ledger.run(book.worker, service, body)
    assert book.broken == "R4"
