"""Majordomo: reliable service calls through a broker (7/MDP, 18/MDP, 8/MMI; Guide chapter 4)."""

from zpatterns.mdp.broker import Broker

__all__ = ["Broker"]
