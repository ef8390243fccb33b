"""The life of a message: every state, and every way from one to another.

                ┌──────────► canceled ◄───────────────┐
     scheduled ─┤                                     │ cancel
                ▼      claim            mark          │            settle
              queued ───────► claimed ─────► transmitting ──► sent · bounced · failed · suppressed
                ▲                │                 │
                │    release     │                 ├─ settle (4xx, relay trouble) ──► deferred ──claim──►
                └────────────────┘                 └─ settle, lose (can't know) ────► unknown  ──claim──►

Whatever writes a message's state names one of these transitions, and the database applies it only to
rows in one of its sources.
"""

from dataclasses import dataclass

from django.db.models import TextChoices


class State(TextChoices):
    SCHEDULED = "scheduled", "Scheduled"
    QUEUED = "queued", "Queued"
    CLAIMED = "claimed", "Picked up"
    TRANSMITTING = "transmitting", "Transmitting"
    DEFERRED = "deferred", "Deferred"
    UNKNOWN = "unknown", "Uncertain"
    SENT = "sent", "Sent"
    DELIVERED = "delivered", "Delivered"
    BOUNCED = "bounced", "Bounced"
    COMPLAINED = "complained", "Complained"
    FAILED = "failed", "Failed"
    SUPPRESSED = "suppressed", "Suppressed"
    CANCELED = "canceled", "Canceled"


# Waiting for an attempt: `due_at` says from when. An uncertain message that is held for a person has none.
WAITING = frozenset({State.SCHEDULED, State.QUEUED, State.DEFERRED, State.UNKNOWN})
# In a worker's hands.
HELD = frozenset({State.CLAIMED, State.TRANSMITTING})
# Over. From *sent* and *delivered* only a later report moves a message on; nothing is ever retried.
FINISHED = frozenset(State) - WAITING - HELD


@dataclass(frozen=True)
class Transition:
    sources: frozenset[State]
    targets: frozenset[State]


def _way(sources: set[State] | frozenset[State], *targets: State) -> Transition:
    return Transition(frozenset(sources), frozenset(targets))


# A worker takes a due message: from here on it is that worker's alone.
CLAIM = _way(WAITING, State.CLAIMED)
# A worker that stops, or is dead, gives back what it has not begun to transmit.
RELEASE = _way({State.CLAIMED}, State.QUEUED)
# Durably noted before DATA: a worker that dies before this has sent nothing. Again where a commit's answer was lost.
MARK = _way(HELD, State.TRANSMITTING)
# What the relay said, or that it said nothing.
SETTLE = _way(
    {State.TRANSMITTING},
    State.SENT, State.BOUNCED, State.DEFERRED, State.QUEUED, State.UNKNOWN, State.FAILED, State.SUPPRESSED,
)  # fmt: skip
# The outcome of a claim that was freed meanwhile, but that nobody else has taken: it is uncertain, or was hurried.
SETTLE_LATE = _way({State.UNKNOWN, State.QUEUED}, *SETTLE.targets)
# The worker died, or was stopped, with the mark set: the relay may have the message or not.
LOSE = _way({State.TRANSMITTING}, State.UNKNOWN)
# A worker died too often while transmitting this very message.
CONDEMN = _way({State.TRANSMITTING}, State.FAILED)
# An operator's or the sender's decisions about a message that waits.
RESCHEDULE = _way({State.SCHEDULED, State.QUEUED, State.DEFERRED}, State.SCHEDULED)
SEND_NOW = _way(WAITING, State.QUEUED)
CANCEL = _way(WAITING, State.CANCELED)
GIVE_UP = _way(WAITING, State.FAILED)
# A person found out that an uncertain message did arrive.
CONFIRM = _way({State.UNKNOWN}, State.SENT)
# A later report from the receiving side.
REPORT = _way({State.SENT, State.DELIVERED}, State.DELIVERED, State.BOUNCED, State.COMPLAINED)

TRANSITIONS = {
    "claim": CLAIM, "release": RELEASE, "mark": MARK, "settle": SETTLE, "settle late": SETTLE_LATE, "lose": LOSE,
    "condemn": CONDEMN, "reschedule": RESCHEDULE, "send now": SEND_NOW, "cancel": CANCEL, "give up": GIVE_UP,
    "confirm": CONFIRM, "report": REPORT,
}  # fmt: skip
