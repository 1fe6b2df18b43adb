"""Freelance: reliable requests without a broker (10/FLP; Guide chapter 4, "Brokerless Reliability")."""

from zpatterns.freelance.client import AsyncFreelanceClient, FreelanceClient
from zpatterns.freelance.server import FreelanceServer
from zpatterns.handlers import Request

__all__ = ["AsyncFreelanceClient", "FreelanceClient", "FreelanceServer", "Request"]
