"""Clients that submit mail over HTTP, and don't rest before they have an answer for each."""

import http.client
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PAUSE = 0.2  # seconds before a client tries again
TIMEOUT = 10  # seconds for an answer
BATCH = 20  # mails in one request


@dataclass(frozen=True)
class Mail:
    """A mail to submit. The ending of a recipient's name tells the relay, and the report, what is to become of it."""

    number: int
    recipients: tuple[str, ...]

    @classmethod
    def invent(cls, seed: int, number: int) -> "Mail":
        dice = random.Random(f"{seed} mail {number}")
        if dice.random() < 0.02:
            endings = ["spam"]
        else:
            endings = dice.choices(["ok", "gone"], [97, 3], k=dice.choices([1, 2, 3], [80, 12, 8])[0])
        return cls(number, tuple(f"m{number}-{index}-{ending}@chaos.test" for index, ending in enumerate(endings)))

    @property
    def name(self) -> str:
        """What its recipients' addresses begin with."""
        return f"m{self.number}"

    @property
    def fields(self) -> dict:
        text = f"This is mail {self.number}.\n" * 20
        return {"from": "Chaos <chaos@chaos.test>", "to": self.recipients, "subject": self.name, "text": text}


@dataclass(frozen=True)
class Order:
    """One request: a mail, or a batch of them, under one key."""

    mails: tuple[Mail, ...]

    @property
    def key(self) -> str:
        return f"chaos-{self.mails[0].number}"

    @property
    def path(self) -> str:
        return "/emails" if len(self.mails) == 1 else "/emails/batch"

    @property
    def body(self) -> bytes:
        fields = [mail.fields for mail in self.mails]
        return json.dumps(fields[0] if len(fields) == 1 else fields).encode()

    @staticmethod
    def ids(answer: dict) -> list[str]:
        return [answer["id"]] if "id" in answer else [item["id"] for item in answer["data"]]

    @classmethod
    def all(cls, seed: int, mails: int) -> "Iterator[Order]":
        """Mostly single mails; about a third of the mails in batches."""
        dice = random.Random(f"{seed} orders")
        number = 0
        while number < mails:
            size = min(BATCH if dice.random() < 0.02 else 1, mails - number)
            yield cls(tuple(Mail.invent(seed, n) for n in range(number, number + size)))
            number += size


@dataclass
class Clients:
    """Several threads that share the orders, each due when `progress` has come so far.

    Some answers are not waited for, and some requests made again, always with the same key: the
    answer must be the same one.
    """

    port: int
    token: str
    seed: int
    mails: int
    progress: Callable[[], float]
    threads: int = 8
    accepted: dict[str, Mail] = field(default_factory=dict)  # id → mail
    retries: int = 0
    contradictions: list[str] = field(default_factory=list)

    def start(self) -> None:
        self._orders = Order.all(self.seed, self.mails)
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(self.threads)]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        self._given_up.set()

    def _run(self, client: int) -> None:
        caller = Caller(self.port, self.token)
        dice = random.Random(f"{self.seed} client {client}")
        while not self._given_up.is_set():
            with self._lock:
                order = next(self._orders, None)
            if order is None:
                return
            while self.progress() < order.mails[0].number / self.mails and not self._given_up.is_set():
                self._given_up.wait(0.02)
            if dice.random() < 0.03:
                caller.send_and_hang_up(order)
            ids = self._submit(caller, order)
            if ids and dice.random() < 0.03 and (again := self._submit(caller, order)) not in (ids, None):
                self.contradictions.append(f"key {order.key} got two answers: {ids} and {again}")

    def _submit(self, caller: "Caller", order: Order) -> list[str] | None:
        """Tries until there is an answer; the ids in it."""
        for attempt in itertools.count():
            if self._given_up.is_set():
                return None
            try:
                status, answer = caller.post(order)
            except (OSError, http.client.HTTPException, ValueError):
                status, answer = 0, {}
            if status == 200:
                return self._note(order, Order.ids(answer), attempt)
            if status and status < 500 and answer.get("name") != "concurrent_idempotent_requests":
                self.contradictions.append(f"key {order.key} was refused: {status} {answer}")
                return None
            self._given_up.wait(PAUSE)

    def _note(self, order: Order, ids: list[str], retries: int) -> list[str]:
        with self._lock:
            self.retries += retries
            self.accepted |= dict(zip(ids, order.mails, strict=True))
        return ids


class Caller:
    """One kept connection to the API; a new one after any trouble."""

    def __init__(self, port: int, token: str):
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, order: Order) -> tuple[int, dict]:
        return self._call("POST", order.path, order.body, self.headers | {"Idempotency-Key": order.key})

    def get(self, id: str) -> tuple[int, dict]:
        return self._call("GET", f"/emails/{id}", None, self.headers)

    def send_and_hang_up(self, order: Order) -> None:
        """A caller that never hears its answer."""
        try:
            connection = self._connect()
            connection.request("POST", order.path, order.body, self.headers | {"Idempotency-Key": order.key})
        except OSError:
            pass
        finally:
            self._hang_up()

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, dict]:
        try:
            connection = self._connect()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except BaseException:
            self._hang_up()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        self._connection = self._connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        return self._connection

    def _hang_up(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None
