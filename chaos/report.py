"""The verdict: what the clients were promised, against what the relay took and what the system says of it."""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cached_property

from django.conf import settings
from django.db import connection

from chaos.clients import Clients
from chaos.evidence import Evidence, Line, gather, read_stored
from chaos.relay import Relay, Unanswered
from chaos.world import World

SHOWN = 10  # faults of one kind that are printed in full


class Report:
    """Reads the evidence once everything has settled. `faults` holds whatever must not be, by kind."""

    def __init__(self, world: World, relay: Relay, clients: Clients, policy: str):
        self.world, self.relay, self.clients, self.policy = world, relay, clients, policy
        self.taken = list(relay.taken)  # before the database is read: should it not have settled, more may come
        self.stored = read_stored()
        self.messages = gather(clients, self.taken, self.stored)
        connection.close()
        self.faults: dict[str, list[str]] = {
            "lost": self._of_each(lambda message: message.losses),
            "duplicate under hold": self._of_each(self._forbidden_copies),
            "copy without an uncertain outcome before it": self._of_each(lambda message: message.unannounced),
            "uncertain without a cause": [text for cause, text in self.causes if not cause],
            "more duplicates than were uncertain": self._excess(),
            "more marked messages than connections": self._overmarked(),
            "unexpected outcome": self._of_each(lambda message: message.surprises),
            "never accepted": self._never_accepted(),
            "stored, but no client was told": [str(id) for id in self.stored if str(id) not in clients.accepted],
            "taken by the relay, but not in the database": self._strangers(),
            "promise to a client broken": clients.contradictions,
            "a process misbehaved": world.faults,
        }

    @property
    def failed(self) -> bool:
        return any(self.faults.values())

    # Faults

    def _of_each(self, find) -> list[str]:
        return [f"{message.id} ({message.mail.name}): {text}" for message in self.messages for text in find(message)]

    def _forbidden_copies(self, message: Evidence) -> list[str]:
        return [str(dict(message.copies))] if self.policy == "hold" and message.duplicates else []

    def _excess(self) -> list[str]:
        duplicates = sum(message.duplicates for message in self.messages)
        return [f"{duplicates}, where {self.most} could be"] if duplicates > self.most else []

    def _overmarked(self) -> list[str]:
        blows = self.world.blows
        return [f"{len(blow.marked)} in {blow.worker}" for blow in blows if len(blow.marked) > settings.SENDERS]

    def _never_accepted(self) -> list[str]:
        missing = self.clients.mails - len({mail.number for mail in self.clients.accepted.values()})
        return [f"{missing} mails"] if missing else []

    def _strangers(self) -> list[str]:
        known = set(self.stored.values())
        return [taken.message_id for taken in self.taken if taken.message_id not in known]

    # What was uncertain

    @property
    def most(self) -> int:
        """How many could be uncertain, by what the harness did and saw."""
        return sum(len(blow.marked) for blow in self.world.blows) + len(self.relay.unanswered)

    @cached_property
    def causes(self) -> list[tuple[str, str]]:
        """For each uncertain outcome what had befallen the message or its worker, and a text."""
        unanswered: dict[str, list[Unanswered]] = defaultdict(list)
        for one in self.relay.unanswered:
            unanswered[one.mail].append(one)
        return [
            (self._cause(message, line, unanswered[message.mail.name]), f"{message.id}: {line.detail}")
            for message in self.messages
            for line in message.unknowns
        ]

    def _cause(self, message: Evidence, unknown: Line, unanswered: list[Unanswered]) -> str:
        if not (claim := message.claim_before(unknown)):
            return ""
        if any(claim.at <= one.at <= unknown.at for one in unanswered):
            return "left without an answer by the relay"
        for blow in reversed(self.world.blows):
            if blow.worker and blow.worker in claim.detail and claim.at <= blow.at <= unknown.at:
                return f"in a worker that was {blow.what}"
        return ""

    def _longest(self, measure: Callable[[Evidence, float], float]) -> str:
        """Over all messages that workers held at their ends."""
        messages = {message.id: message for message in self.messages}
        ends = [blow for blow in self.world.blows if blow.what in ("killed", "ended by itself")]
        held = [(messages[id], blow.at) for blow in ends for id in blow.held if id in messages]
        return f"{max((measure(message, at) for message, at in held), default=0):.1f} s"

    # The table

    def __str__(self) -> str:
        states = Counter(message.state for message in self.messages)
        duplicates = [message.duplicates for message in self.messages if message.duplicates]
        causes = Counter(cause or "without a cause" for cause, _ in self.causes)
        counts = [len(blow.marked) for blow in self.world.blows]
        marked = f"{sum(counts)} marked at {len(counts)} blows to workers, {max(counts, default=0)} at one"
        rows = [
            ("accepted", len(self.messages), f"{self.clients.retries} requests had to be made again"),
            ("delivered", states["sent"] + states["delivered"], ""),
            ("bounced", states["bounced"], "with the relay's reason"),
            ("failed", states["failed"], self._why_failed()),
            ("held", sum(message.is_held for message in self.messages), "shown as uncertain, for a person to decide"),
            ("lost", sum(bool(message.losses) for message in self.messages), ""),
            ("duplicated", len(duplicates), f"{sum(duplicates)} copies"),
            ("uncertain", causes.total(), ", ".join(f"{count} {cause}" for cause, count in causes.most_common())),
            ("  at most", self.most, f"{marked}; {len(self.relay.unanswered)} left without an answer by the relay"),
            ("longest recovery", self._longest(Evidence.freed), "from a worker's end until all that it held was free"),
            (
                "  went on after",
                self._longest(Evidence.went_on),
                "with its turn in the queue and the relay's troubles",
            ),
        ]
        lines = [f"  {name:<17}{count:>8}   {note}".rstrip() for name, count, note in rows]
        return "\n".join([*lines, *self._fault_lines()])

    def _why_failed(self) -> str:
        reasons = Counter(message.timeline[-1].detail for message in self.messages if message.state == "failed")
        return "; ".join(reasons) or "with a reason"

    def _fault_lines(self) -> list[str]:
        lines = []
        for kind, found in self.faults.items():
            if found:
                lines += [f"\n  FAULT: {kind}: {len(found)}", *(f"    {text}" for text in found[:SHOWN])]
        return lines
