"""Majordomo: reliable service calls through a broker (7/MDP, 18/MDP, 8/MMI; Guide chapter 4)."""

from zpatterns.handlers import Request
from zpatterns.mdp.broker import Broker
from zpatterns.mdp.client import AsyncClient, Client
from zpatterns.mdp.worker import Worker

__all__ = ["AsyncClient", "Broker", "Client", "Request", "Worker"]
