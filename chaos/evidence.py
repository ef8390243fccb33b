"""What is known of each accepted message: the client's mail, the API's answer, the timeline, the relay's copies."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from chaos.clients import Caller, Clients, Mail
from chaos.relay import Taken
from emails.models import EmailRequest, Event

DONE = {"sent", "delivered", "bounced", "complained", "failed", "suppressed", "canceled"}
REFUSED = {"bounced", "failed", "suppressed", "canceled"}


@dataclass(frozen=True)
class Line:
    """A line of a message's timeline."""

    at: float
    kind: str
    detail: str

    @property
    def is_held(self) -> bool:
        return self.kind == "unknown" and "held" in self.detail

    @property
    def is_free(self) -> bool:
        """Whether the message waits: due again, or for a person."""
        return self.kind in ("released", "unknown")


@dataclass
class Evidence:
    id: UUID
    mail: Mail
    answer: dict  # of GET /emails/{id}; empty if it knew nothing
    timeline: list[Line]
    copies: dict[str, list[float]]  # recipient → when the relay took the message for it

    @property
    def state(self) -> str:
        return self.answer.get("state", "missing")

    @property
    def unknowns(self) -> list[Line]:
        return [line for line in self.timeline if line.kind == "unknown"]

    @property
    def is_held(self) -> bool:
        """Shown as uncertain, for a person to decide."""
        return self.state == "unknown" and self.timeline[-1].is_held

    @property
    def losses(self) -> list[str]:
        """What was promised and is neither delivered, nor refused with a reason, nor held."""
        if self.is_held:
            return []
        if self.state not in DONE:
            return [f"is {self.state} at the end"]
        return [
            f"{outcome['address']} is {outcome['state']}, and the relay never took it"
            for outcome in self.answer["recipients"]
            if outcome["address"] not in self.copies and not self._is_refused(outcome)
        ]

    def _is_refused(self, outcome: dict) -> bool:
        return outcome["state"] in REFUSED and bool(outcome["reply"] or self.timeline[-1].detail)

    @property
    def surprises(self) -> list[str]:
        """Recipients that are missing, and outcomes that contradict what the relay says to such a recipient."""
        outcomes = {outcome["address"]: outcome["state"] for outcome in self.answer.get("recipients", ())}
        wrong = {True: "bounced", False: "accepted"}
        return [
            f"{address} is {outcomes.get(address, 'missing')}"
            for address in self.mail.recipients
            if outcomes.get(address, "missing") in ("missing", wrong[address.partition("@")[0].endswith("-ok")])
        ]

    @property
    def duplicates(self) -> int:
        return max((len(times) - 1 for times in self.copies.values()), default=0)

    @property
    def unannounced(self) -> list[str]:
        """Copies that no uncertain outcome before them allowed."""
        found = []
        for address, times in self.copies.items():
            for number, at in enumerate(sorted(times)):
                allowed = sum(line.at <= at for line in self.unknowns)
                if number > allowed:
                    found.append(f"{address} got copy {number + 1} after {allowed} uncertain outcomes")
        return found

    def claim_before(self, moment: Line) -> Line | None:
        """The claim during which something happened."""
        claims = [line for line in self.timeline if line.kind == "claimed" and line.at <= moment.at]
        return claims[-1] if claims else None

    def freed(self, after: float) -> float:
        """Seconds from a moment until the message was free again, or over."""
        return next((line.at - after for line in self.timeline if line.at > after), 0)

    def went_on(self, after: float) -> float:
        """Seconds from a moment until the message was in hands again, or over, or held for a person."""
        later = (line for line in self.timeline if line.at > after and (line.is_held or not line.is_free))
        return next((line.at - after for line in later), 0)


def gather(clients: Clients, taken: list[Taken], stored: dict[UUID, str]) -> list[Evidence]:
    """The evidence on every message that a client was told of; `stored` holds the database's Message-IDs."""
    mails = {UUID(id): mail for id, mail in list(clients.accepted.items())}
    answers, timelines, copies = ask_for(clients, list(mails)), read_timelines(), copies_by_message(taken)
    return [
        Evidence(id, mail, answers[id], timelines.get(id, []), copies.get(stored.get(id, ""), {}))
        for id, mail in mails.items()
    ]


def ask_for(clients: Clients, ids: list[UUID]) -> dict[UUID, dict]:
    """GET /emails/{id} for all of them, by a few callers."""

    def ask(share: list[UUID]) -> list[tuple[UUID, dict]]:
        caller = Caller(clients.port, clients.token)
        answers = ((id, *caller.get(str(id))) for id in share)
        return [(id, answer if status == 200 else {}) for id, status, answer in answers]

    with ThreadPoolExecutor(4) as pool:
        return dict(item for share in pool.map(ask, [ids[n::4] for n in range(4)]) for item in share)


def read_timelines() -> dict[UUID, list[Line]]:
    """By the moments at which the lines were written: PostgreSQL's numbers are given out in no order."""
    events = sorted(Event.objects.values_list("email", "at", "pk", "kind", "detail"))
    return {
        id: [Line(at.timestamp(), kind, detail) for _, at, _, kind, detail in group]
        for id, group in groupby(events, key=lambda event: event[0])
    }


def copies_by_message(taken: list[Taken]) -> dict[str, dict[str, list[float]]]:
    copies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in taken:
        for address in one.recipients:
            copies[one.message_id][address].append(one.at)
    return copies


def read_stored() -> dict[UUID, str]:
    return dict(EmailRequest.objects.values_list("pk", "message_id"))
