"""What the engine's frames say about each open request, and the verdict that follows from it."""

from monitor.session.receiver import Receiver
from monitor.session.state import ChoiceState, Session
from monitor.session.table import ScoreUpdate, SessionTable
from monitor.session.verdict import Ending, build_verdict, unjudged
from monitor.session.waiting import Overdue, wait_scored

__all__ = [
    "ChoiceState",
    "Ending",
    "Overdue",
    "Receiver",
    "ScoreUpdate",
    "Session",
    "SessionTable",
    "build_verdict",
    "unjudged",
    "wait_scored",
]
