"""A Freelance server as a state machine: 10/FLP, and the REP servers of the Guide's models one and two. Pure."""

from __future__ import annotations

from zpatterns.core import Frames
from zpatterns.freelance import wire
from zpatterns.server_core import ServerCore, ServerOptions


class FreelanceServerCore(ServerCore):
    """Answers requests of one of the three models, and in the addressed one PING with PONG."""

    def __init__(self, model: str, options: ServerOptions) -> None:
        wire.check_model(model)
        super().__init__(options)
        self.model = model

    def _depth(self, frames: Frames, now: float) -> int:
        if self.model != wire.ADDRESSED:
            return wire.rep_depth(self.model, frames)
        if len(frames) > 2:
            return 2
        if frames[1:] == [wire.PING]:
            self._out.append([frames[0], wire.PONG])
            return -1
        return 0

    def _error(self, envelope: Frames, code: bytes, text: str) -> Frames | None:
        # The shotgun model has room for one frame: who fails there is silent, and another server answers.
        return None if self.model == wire.SHOTGUN else super()._error(envelope, code, text)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned the answer's `frames`: in the shotgun model exactly one."""
        if self.model == wire.SHOTGUN and len(frames) > 1:
            text = f"the shotgun model's answers have exactly one frame, and this has {len(frames)}"
            self.handler_failed(run, "ValueError", text, now)
        else:
            super().handler_done(run, frames, now)
