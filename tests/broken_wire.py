"""A socket whose connection breaks where a test wants it to."""

from __future__ import annotations

import errno

import zmq

from zpatterns.core import Frames


class Wire:
    """libzmq's side of a DEALER, which breaks at a frame of our choice and from then on behaves as lb.cpp does."""

    def __init__(self, breaks_at: int, error: int = zmq.EAGAIN) -> None:
        self.breaks_at = breaks_at
        self.error = error
        self.frames = 0
        self.dropping = False
        self.message: Frames = []
        self.sent: list[Frames] = []

    def __call__(self, frame: bytes, flags: int) -> None:
        assert flags & zmq.NOBLOCK, "this may wait"
        more = bool(flags & zmq.SNDMORE)
        if self.dropping:
            self.dropping = more
            return
        self.frames += 1
        if self.frames == self.breaks_at:
            if self.error != errno.EINTR:
                self.dropping = more and bool(self.message)
                self.message = []
            raise zmq.ZMQError(self.error)
        self.message.append(frame)
        if not more:
            self.sent.append(self.message)
            self.message = []
