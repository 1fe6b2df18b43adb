"""The blocking driver: the same cores without a loop, pumped by the threads that call."""

from __future__ import annotations

import contextlib
import importlib
import math
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import zmq

from zpatterns.core import Command, Core, Rng
from zpatterns.driver import Driver
from zpatterns.errors import ClosedError
from zpatterns.sockets import POLLIN, POLLOUT, Link, SocketSettings, default_rng, new_context
from zpatterns.telemetry import Telemetry

LONGEST_WAIT = 1.0
"""Seconds that are waited at once; whoever waits looks again. A signal wakes nobody who was just about to wait, nor the
main thread where another was given it: that late Ctrl-C is then. And locks and polls take no time beyond some bound."""

_SIGINT = int(signal.SIGINT)

# The functions of signal itself spend ten times as long, on making enums of their arguments.
_signals: Any = importlib.import_module("_signal")


class _Interrupts:
    """Ctrl-C, put off while the main thread is in the midst of something that others depend on.

    Python would raise KeyboardInterrupt between any two of our steps: the lead would be nobody's then, and what a turn
    was to do for other threads would be lost. Where it may come is where we wait. All of it is for the main thread:
    Python interrupts no other.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._came: tuple[int, FrameType | None] | None = None

    def hold(self) -> None:
        """Put it off until :meth:`release` was called as often."""
        if threading.current_thread() is threading.main_thread():
            if not self._depth:
                self._put_off()
            self._depth += 1

    def release(self) -> None:
        """What came meanwhile comes now."""
        if threading.current_thread() is threading.main_thread():
            self._depth -= 1
            if not self._depth:
                self._let_come()

    def admit(self) -> None:
        """Before a wait: it may come, and what came meanwhile does. :meth:`wait_over` ends that."""
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._let_come()

    def wait_over(self) -> None:
        """The wait is over, by an interrupt or without one."""
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._put_off()

    def _put_off(self) -> None:
        handler = _signals.getsignal(_SIGINT)
        if callable(handler) and handler != self._note:
            self._handler, self._came = handler, None
            _signals.signal(_SIGINT, self._note)

    def _let_come(self) -> None:
        if _signals.getsignal(_SIGINT) == self._note:
            handler = self._handler
            assert handler is not None
            _signals.signal(_SIGINT, handler)
            came, self._came = self._came, None
            if came is not None:
                handler(*came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = number, frame


_interrupts = _Interrupts()


def wait_for(condition: threading.Condition, holds: Callable[[], Any], timeout: float | None) -> bool:
    """``condition.wait_for(holds, timeout)``, but for :data:`LONGEST_WAIT` at once."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not condition.wait_for(holds, min(LONGEST_WAIT, end - time.monotonic())):
        if time.monotonic() >= end:
            return False
    return True


class Waiter:
    """One thread's wait: done once :attr:`ready` says so. Made by a caller, woken by the driver."""

    __slots__ = ("_lock", "lead", "ready")

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.lead = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # awake already
            self._lock.release()

    def sleep(self, seconds: float) -> None:
        """Until :meth:`wake`, or for `seconds`."""
        _interrupts.admit()
        try:
            self._lock.acquire(timeout=min(max(0.0, seconds), LONGEST_WAIT))
        finally:
            _interrupts.wait_over()


class BlockingDriver(Driver):
    """Drives one core from whichever thread waits for it.

    Sockets belong to one thread at a time, the leader: the first caller that waits. It polls for all; the others
    leave their work in an inbox, ring the bell (a socket pair that is always in the poll set) and sleep until
    their own wait is over or the leader, having finished, makes one of them the next. So a lone caller never
    switches threads, and nothing runs while nobody calls.
    """

    def __init__(
        self,
        core: Core,
        *,
        settings: SocketSettings | None = None,
        rng: Rng = default_rng,
        telemetry: Telemetry,
        on_command: Callable[[Command], None],
    ) -> None:
        self._own_context = new_context()
        super().__init__(
            core,
            context=self._own_context,
            settings=settings or SocketSettings(),
            rng=rng,
            telemetry=telemetry,
            on_command=on_command,
        )
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._leading = False
        self._leader = 0  # whose turn is being carried out; no thread has the number 0
        self._ended = False
        self._waiters: dict[Waiter, None] = {}
        self._inbox: deque[Callable[[], object]] = deque()
        self._bell_in, self._bell_out = socket.socketpair()
        self._bell_in.setblocking(False)
        self._bell_out.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._bell_in, zmq.POLLIN)
        self._due: dict[Link, None] = {}
        self._by_socket: dict[Any, Link] = {}
        self._special: dict[Link, int] = {}
        self._when: float | None = None
        self.now = time.monotonic  # type: ignore[method-assign]

    def submit(self, work: Callable[[], object]) -> None:
        """Have `work`, which may use :meth:`call`, done by whoever leads; by this thread if nobody does."""
        _interrupts.hold()
        try:
            self._submit(work)
        finally:
            _interrupts.release()

    def _submit(self, work: Callable[[], object]) -> None:
        with self._lock:
            if self.closed:
                raise ClosedError(f"{self.telemetry.source} is closed; make a new one")
            self._inbox.append(work)
            if self._leading:
                self._ring()
                return
            self._leading = True
        try:
            self._work_off()
        finally:
            self._resign()

    @property
    def in_callback(self) -> bool:
        """Whether this is called in the midst of a turn, in the thread that carries it out."""
        return self._leader == threading.get_ident()

    def check_can_wait(self) -> None:
        """Errors: RuntimeError in a callback, which would wait for itself."""
        if self.in_callback:
            raise RuntimeError(
                f"a callback of {self.telemetry.source} runs in the thread that does its work, and cannot wait for "
                "that: have another thread do so"
            )

    def wait(self, waiter: Waiter, deadline: float) -> bool:
        """Sleep or lead until `waiter` is ready, or until `deadline` in monotonic seconds. Returns whether it is."""
        _interrupts.hold()
        try:
            return self._wait(waiter, deadline)
        finally:
            _interrupts.release()

    def _wait(self, waiter: Waiter, deadline: float) -> bool:
        self.check_can_wait()
        with self._lock:
            self._waiters[waiter] = None
            if not self._leading:
                self._leading = waiter.lead = True
        try:
            while not waiter.ready() and not self.closed:
                now = self.now()
                if now >= deadline:
                    break
                if waiter.lead:
                    self._pump(deadline)
                    self._wake_ready()
                else:
                    waiter.sleep(deadline - now)
        finally:
            with self._lock:
                del self._waiters[waiter]
                self._free.notify_all()
            if waiter.lead:
                self._resign()
        return waiter.ready()

    def close(self, linger: float = 0.0) -> None:
        """Close every socket and the context. Threads that wait are woken; safe from any thread, and twice.

        In a callback it returns at once: the turn that called back has to end first.
        """
        if self.in_callback:
            threading.Thread(target=self.close, args=(linger,), name="zpatterns-close", daemon=True).start()
            return

        def shut() -> None:
            if not self.closed:
                Driver.close(self, linger)

        with contextlib.suppress(ClosedError):
            self.submit(shut)
        with self._lock:
            # Each thread that waits finds out in turn and hands the lead on. One that is stuck in a callback of
            # its own is left with its sockets: they are not ours to take away.
            free = self._free.wait_for(lambda: not self._leading and not self._waiters, timeout=5.0)
            mine = free and not self._ended
            self._ended = self._ended or free
        if mine:
            # A call that was interrupted while pyzmq made its socket may have left that behind, known to nobody: the
            # end of the context would wait for it for ever. It may, but without us.
            end = threading.Thread(
                target=self._own_context.destroy, args=(0,), name="zpatterns-context-term", daemon=True
            )
            end.start()
            end.join(2.0)
            self._bell_in.close()
            self._bell_out.close()

    def _pump(self, deadline: float) -> None:
        """One turn of the leader: work, sockets, timer."""
        if self._work_off() or self.closed:
            return  # what was done may have ended a wait, this one too
        if self._blocked or self._paused or self._special:
            self._choose_events()
        now = self.now()
        until = deadline if self._when is None else min(deadline, self._when)
        # Round up: to wake a little before a timer is to spin until it.
        timeout = 0 if self._due else max(0, int(min(until - now, LONGEST_WAIT) * 1000) + 1)
        for ready, _ in self._poll(timeout):
            if ready == self._bell_in.fileno():
                with contextlib.suppress(BlockingIOError):
                    while self._bell_in.recv(4096):
                        pass
            else:
                self._due[self._by_socket[ready]] = None
        due, self._due = self._due, {}
        for link in due:
            self._guarded_drain(link)
        if self._when is not None and self._when <= self.now():
            self._guarded_timer()

    def _poll(self, timeout: int) -> list[tuple[Any, int]]:
        _interrupts.admit()
        try:
            return self._poller.poll(timeout)
        finally:
            _interrupts.wait_over()

    def _choose_events(self) -> None:
        """Poll for what can be acted upon, where that is not just POLLIN."""
        # Only a poll for POLLOUT tells that the one peer is there, or takes messages, again.
        special = {link: POLLIN | POLLOUT for link in self._blocked if not link.routed}
        for link in self._paused:
            # What is not to be read yet would end every poll at once.
            special[link] = special.get(link, 0) & POLLOUT
        for link in special.keys() | self._special.keys():
            if not link.closed:
                self._poller.register(link.poll_item(), special.get(link, POLLIN))
        self._special = special

    def _work_off(self) -> bool:
        """Do the work of the inbox. Returns whether there was any."""
        done = False
        self._leader = threading.get_ident()
        while True:
            try:
                work = self._inbox.popleft()
            except IndexError:
                return done
            done = True
            try:
                work()
            except Exception as error:  # it may be another thread's, and is not to end this one's wait
                self.telemetry.error("work_failed", error)

    def _wake_ready(self) -> None:
        with self._lock:
            for waiter in self._waiters:
                if not waiter.lead and waiter.ready():
                    waiter.wake()

    def _resign(self) -> None:
        """Give up the lead: to a thread that waits, if there is one."""
        while True:
            with self._lock:
                if not self._inbox or self.closed:
                    self._leading = False
                    self._leader = 0
                    for waiter in self._waiters:
                        # One that the last work has made ready must be told so too.
                        if waiter.ready():
                            waiter.wake()
                        elif not self._leading:
                            self._leading = waiter.lead = True
                            waiter.wake()
                    self._free.notify_all()
                    return
            self._work_off()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: the bell rings already
            self._bell_out.send(b"\0")

    def _watch(self, link: Link) -> None:
        item = link.poll_item()
        self._by_socket[item] = link
        self._poller.register(item, zmq.POLLIN)

    def _unwatch(self, link: Link) -> None:
        item = link.poll_item()
        self._poller.register(item, 0)
        self._due.pop(link, None)
        del self._by_socket[item]

    def _schedule(self, link: Link) -> None:
        self._due[link] = None

    def _set_timer(self, when: float | None) -> None:
        self._when = when
