"""Asks a Shortlist gateway for recommendations: `Client`, `AsyncClient`, what they answer and raise."""

from shortlist.answers import Answer, AnsweredItem, EventsTaken, Id, ItemHistory, ServedBundle, Trace
from shortlist.client import AsyncClient, Client
from shortlist.errors import (
    GatewayFailed,
    NotUnderstood,
    OutOfTime,
    Overloaded,
    Refused,
    ShortlistError,
    UnknownCaller,
    Unreachable,
    WrongRequest,
)
from shortlist.retries import Retries

__all__ = [
    "Answer",
    "AnsweredItem",
    "AsyncClient",
    "Client",
    "EventsTaken",
    "GatewayFailed",
    "Id",
    "ItemHistory",
    "NotUnderstood",
    "OutOfTime",
    "Overloaded",
    "Refused",
    "Retries",
    "ServedBundle",
    "ShortlistError",
    "Trace",
    "UnknownCaller",
    "Unreachable",
    "WrongRequest",
]
