"""The relay check: every step of the dialogue with the relay, what it said, and what to change where that fails.

The dialogue is that of the workers: their `Connection`, watched.
"""

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from emails.drafts import Draft, Invalid, Problem
from emails.models import EmailRequest, Priority
from emails.smtp import Connection, Relay, Reply, Timeouts, Trouble, is_greylisting, tls_context
from emails.staging import Send, redirect

RENEWAL = 14  # days before its end at which a certificate should have been renewed
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which ssl has no name
SLOTS = threading.BoundedSemaphore(2)  # checks at once in a web server
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")  # what came was no TLS at all
EXTENSIONS = ("SIZE", "PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS", "AUTH")
TEMPORARY = "Nothing to change: real mail is tried again, by RETRY_SCHEDULE."

TITLES = {
    "connecting": "Connection",
    "starting TLS": "TLS",
    "waiting for the greeting": "Greeting",
    "at EHLO": "EHLO",
    "at STARTTLS": "STARTTLS",
    "at AUTH": "Login",
    "at MAIL FROM": "Sender",
    "at RCPT TO": "Recipient",
    "at DATA": "DATA",
    "sending the message": "Message",
    "sending the final dot": "Acceptance",
    "after the final dot": "Acceptance",
}


@dataclass
class Step:
    """One step of the check, and how it went."""

    name: str
    state: str = "ok"  # or "warning" or "failed"
    said: str = ""
    advice: str = ""
    seconds: float = 0


def mail_to(address: str, sender: str = "") -> Draft:
    """The mail for `address`; without `sender` from the relay's login if that is an address, else from `address`.

    Raises Invalid.
    """
    login = settings.RELAY.username
    fields = {
        "from": sender or (login if "@" in login else address),
        "to": [address],
        "subject": "Relay check",
        "text": f"This mail shows that the relay {settings.RELAY} takes mail from Mailsite.\n",
    }
    try:
        draft = Draft.clean(fields)
    except Invalid as invalid:  # what was typed once is told once
        raise Invalid([one for one in invalid.problems if sender or one.field == "to"] or invalid.problems) from None
    if not settings.ONLY_TO.lets(draft.to[0]):
        raise Invalid([Problem("to", f"{draft.to[0].mailbox} is not on ONLY_TO: nothing is sent there.")])
    return draft


class Check:
    """One check of `relay`, which a thread of its own may run. `tell` gets each step when it has ended."""

    def __init__(
        self,
        relay: Relay,
        draft: Draft | None = None,
        tell: Callable[[Step], None] = lambda step: None,
        patience: float = 10.0,
    ):
        """`patience`: seconds for the relay's answer at each stage; to the whole message it has three times as long."""
        self.relay = relay
        self.draft = draft
        self.tell = tell
        self.timeouts = replace(Timeouts(*[patience] * 6), final=3 * patience)
        self.steps: list[Step] = []
        self._stage = ""
        self._step: Step | None = None
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._keeping = threading.Lock()  # what is known ends with what stopped it
        self._encrypted = self._is_sending = False
        self._size = 0  # of the message, in bytes
        self._reply: Reply | None = None  # the last of this step
        self._cause: BaseException | None = None
        self._connection = self._to(relay, observe=self._observe, may_finish=lambda: not self._stopped.is_set())

    def _to(self, relay: Relay, **options) -> Connection:
        return Connection(relay, settings.EHLO_NAME, self.timeouts, **options)

    @property
    def is_passed(self) -> bool:
        return bool(self.steps) and all(step.state != "failed" for step in self.steps)

    @property
    def summary(self) -> str:
        if not self.is_passed:
            return "The check has failed."
        if not self.draft:
            return "The relay can be used, as far as can be told without a mail."
        return f"The relay has taken the mail for {settings.REDIRECT_TO or self.draft.to[0]}: see whether it arrives."

    def run(self) -> None:
        with suppress(_Over):
            try:
                self._resolve()
                session = self._connection.open()
                self._end()
                self._judge_encryption()
                if self.draft:
                    self._send(session.transact)
                    self._end()
            except Trouble as trouble:
                self._fail(str(trouble), trouble.__cause__)
            finally:
                self._connection.close()

    def stop(self, said: str) -> None:
        """Nobody waits any longer: what is not known yet has failed, and no mail is finished after this."""
        with self._keeping:
            self._stopped.set()
            self.steps.append(replace(self._step or Step("Check"), state="failed", said=said))

    # The steps

    def _resolve(self) -> None:
        self._begin("Name")
        try:
            host, port = self.relay.address
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._fail(getattr(error, "strerror", "") or str(error), error)
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        self._step.said = ", ".join(addresses)

    def _send(self, transact: Send) -> None:
        email = EmailRequest.from_draft(self.draft, Priority.DEFAULT, delay=0)
        email.date = timezone.now()
        to, sender, message = self.draft.to[0].envelope, email.envelope_sender, email.preview(self.draft)
        self._is_sending, self._size = True, len(message)
        if settings.REDIRECT_TO:
            outcome = redirect(settings.REDIRECT_TO, transact, sender, [to], message)
        else:
            outcome = transact(sender, [to], message)
        if lost := outcome.unknown or outcome.withdrawn or outcome.trouble:
            self._fail(lost, None)
        refusal = next((result.reply for result in outcome.results.values() if not result.reply.code), None)
        if refusal:  # in the relay's place: it has announced that it can't take this
            self._begin("Message")
            self._fail(str(refusal), None)

    def _judge_encryption(self) -> None:
        if self.relay.tls == "offered" and not self._encrypted:
            self._begin("TLS")
            self._step.state = "warning"
            self._step.said = "the relay offers none: mail travels in the clear"
            self._end()

    # What the dialogue tells

    def _observe(self, event: str | Reply | socket.socket) -> None:
        if isinstance(event, str):
            self._enter(event)
        elif isinstance(event, Reply):
            self._hear(event)
        elif isinstance(event, ssl.SSLSocket):
            self._encrypted = True
            self._look_at(event)
        else:
            self._step.said = f"to {event.getpeername()[0]}, port {event.getpeername()[1]}"

    def _enter(self, stage: str) -> None:
        if TITLES[stage] != TITLES.get(self._stage):
            self._begin(TITLES[stage])
        if stage == "sending the message":
            self._step.said = f"{self._size:,} bytes"
        self._stage = stage

    def _hear(self, reply: Reply) -> None:
        self._reply = reply
        self._step.said = str(reply)
        if self._stage == "at EHLO" and reply.code < 400:
            lines = reply.text.splitlines()[1:]
            offered = [line for line in lines if line.partition(" ")[0].upper() in EXTENSIONS]
            self._step.said = f"{reply.code}, offers {', '.join(offered) or 'no extension that matters'}"
        if self._is_sending and reply.code >= 400:
            self._fail(str(reply), None)

    def _look_at(self, encrypted: ssl.SSLSocket) -> None:
        step, certificate, cipher = self._step, encrypted.getpeercert(), encrypted.cipher()
        step.seconds = time.monotonic() - self._began  # a closer look takes connections of its own
        step.said = f"{encrypted.version()}, {cipher[0] if cipher else ''}"
        problem = ""
        if not certificate:  # it was not asked to be valid
            try:
                certificate = self._certificate(tls_context(verified=True))
            except Trouble as trouble:
                certificate, problem = self._believed(), _without_stage(str(trouble))
        if certificate:
            step.said += f"; certificate {described(certificate)}"
        if problem:
            step.state, step.said = "warning", f"{step.said}; {problem}"
            step.advice = "smtp:// takes any certificate; submission:// and smtps:// would refuse this one."
        elif certificate and (days := days_left(certificate)) < RENEWAL:
            step.state, step.advice = "warning", f"It ends in {days} days: have it renewed."

    def _certificate(self, context: ssl.SSLContext, binary: bool = False, tls: str = "") -> Any:
        """The relay's certificate by a connection of its own, under `context`. Raises Trouble."""
        found = []

        def observe(event: str | Reply | socket.socket) -> None:
            if isinstance(event, ssl.SSLSocket):
                found.append(event.getpeercert(binary))

        relay = replace(self.relay, username="", password="", tls=tls or self.relay.tls)
        connection = self._to(relay, observe=observe, context=context)
        try:
            connection.open()
        except Trouble:
            if not found:
                raise
        finally:
            connection.close()
        return found[0] if found else None

    def _believed(self) -> dict:
        """What a certificate says that is not valid; ssl reads only those that it believes."""
        with suppress(Trouble):
            believing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            believing.check_hostname = False
            believing.load_verify_locations(cadata=self._certificate(tls_context(verified=False), binary=True))
            believing.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
            return self._certificate(believing) or {}
        return {}

    # The steps' beginnings and ends

    def _begin(self, name: str) -> None:
        self._end()
        self._step, self._reply, self._began = Step(name), None, time.monotonic()

    def _end(self) -> None:
        if step := self._step:
            step.seconds = step.seconds or time.monotonic() - self._began
            if self._code >= 400:
                step.state = "warning"  # it went on all the same
            self._keep(step)

    def _keep(self, step: Step) -> None:
        with self._keeping:
            if self._stopped.is_set():
                raise _Over
            self._step = None
            self.steps.append(step)
        self.tell(step)

    def _fail(self, said: str, cause: BaseException | None) -> None:
        step = self._step or Step("Check")
        step.seconds = time.monotonic() - self._began
        step.state, step.said = "failed", _without_stage(said)
        self._cause = cause
        step.advice = self._advice(step.name)
        self._keep(step)
        raise _Over

    # What to change

    @property
    def _code(self) -> int:
        return self._reply.code if self._reply else 0

    @property
    def _text(self) -> str:
        return self._reply.text if self._reply else ""

    def _url(self, scheme: str) -> str:
        return f"{scheme}://{'user:password@' if self.relay.username else ''}{self.relay}"

    def _advice(self, step: str) -> str:
        if self._code == 421:
            return "It is busy, or limits our connections: try later; if that stays so, lower SENDERS."
        advise = {
            "Name": self._on_name,
            "Connection": self._on_connection,
            "TLS": self._on_tls,
            "Greeting": self._on_greeting,
            "EHLO": self._on_ehlo,
            "Login": self._on_login,
            "Sender": self._on_sender,
            "Recipient": self._on_recipient,
        }.get(step, self._on_message)
        return advise()

    def _on_name(self) -> str:
        if not isinstance(self._cause, socket.gaierror | UnicodeError):
            return ""  # the sandbox's own reason says what to do
        if isinstance(self._cause, socket.gaierror) and self._cause.errno == socket.EAI_AGAIN:
            return "The name servers of this machine don't answer: look at its network and /etc/resolv.conf."
        return f"No host is known as {self.relay.host}: correct it in EMAIL_URL, or in the DNS."

    def _on_connection(self) -> str:
        port = self.relay.port
        if self.relay.is_sandbox:
            return "The sandbox is not running there: start it with `make run`, `make services` or `manage.py sandbox`."
        if isinstance(self._cause, ConnectionRefusedError):
            return (
                f"The host is there, but nothing listens on port {port}, or a firewall turns us away. Usual are port "
                "587 (submission://), 465 (smtps://) and 25 (smtp://)."
            )
        if isinstance(self._cause, TimeoutError) and port == 25:
            return (
                "Many providers block port 25 for their customers: use submission:// (port 587) or smtps:// (465), or "
                "ask yours to open it."
            )
        if isinstance(self._cause, TimeoutError):
            return (
                f"A firewall drops it, here or there: allow outgoing connections to port {port}, or correct the port."
            )
        return "This machine finds no way to that address: look at its network; is there IPv6 where only that is used?"

    def _on_tls(self) -> str:
        if isinstance(self._cause, ssl.SSLCertVerificationError):
            return self._on_certificate(self._cause.verify_code)
        if isinstance(self._cause, ssl.SSLError) and self._cause.reason in NO_TLS:
            return f"This port begins in the clear: set EMAIL_URL to {self._url('submission')}, which uses STARTTLS."
        return "The relay and this machine have no TLS version or cipher in common: the relay's is out of date."

    def _on_certificate(self, verify_code: int) -> str:
        certificate = self._believed()
        its = f"It is {described(certificate)}. " if certificate else ""
        if verify_code in (9, 10):
            return f"{its}Have it renewed, or set the clock of this machine right."
        if verify_code in (62, 64):
            return f"{its}Write the name that it is for as the host in EMAIL_URL."
        return (
            f"{its}No authority that this machine trusts has issued it: use one from a public authority, or name the "
            "relay's own authority by SSL_CERT_FILE=/path/to/ca.pem."
        )

    def _on_greeting(self) -> str:
        if self._code:
            return "It turns this machine away by its address: let it allow the address, or ask why it is on a list."
        with suppress(Trouble):
            if isinstance(self._cause, OSError) and self._certificate(tls_context(False), binary=True, tls="implicit"):
                return f"This port speaks TLS from the first byte: set EMAIL_URL to {self._url('smtps')}."
        return (
            f"Something listens, but it is no mail server that speaks to us: is port {self.relay.port} the right one?"
        )

    def _on_ehlo(self) -> str:
        if self._code >= 400:
            return "It does not like our name: set EHLO_NAME to the fully qualified name of this machine."
        if self._code:
            return (
                "If it has TLS from the first byte, on port 465, use smtps://. If it has none and the way to it is "
                "safe, use smtp://."
            )
        return ""

    def _on_login(self) -> str:
        if not self._code and not self._encrypted:
            return "Use submission:// (STARTTLS, port 587) or smtps:// (port 465) in EMAIL_URL."
        if not self._code:
            return (
                "It has no login, or only kinds that Mailsite doesn't know: take user and password out of EMAIL_URL, "
                "or ask for a password of the plain kind."
            )
        if self._code < 500:
            return "It can't check logins now: try later."
        return (
            "Correct user and password in EMAIL_URL; special characters are percent-encoded. Many providers want an "
            "app password or an API key here, not the password of the account."
        )

    def _on_sender(self) -> str:
        if self._code in (530, 538) or (self._code and not self.relay.username and "auth" in self._text.lower()):
            return "It wants a login: put user:password@ before the host in EMAIL_URL."
        if 400 <= self._code < 500:
            return TEMPORARY
        if self._code:
            return (
                "It takes no mail from this sender: use one that it knows as yours, or have the domain verified there."
            )
        return ""

    def _on_recipient(self) -> str:
        if 400 <= self._code < 500:
            return f"{'Strangers are put off at first. ' if is_greylisting(str(self._reply)) else ''}{TEMPORARY}"
        if self._code and re.search(r"relay|5\.7\.\d+|auth", self._text, re.IGNORECASE):
            return (
                "It does not pass mail on for us: log in (user:password@ in EMAIL_URL), or let it allow the address of "
                "this machine."
            )
        return "It knows no such mailbox: check the address." if self._code else ""

    def _on_message(self) -> str:
        if 400 <= self._code < 500:
            return TEMPORARY
        if self._code:
            return "It refuses the message for what it is, or for its sender: its words say why."
        if self._stage == "after the final dot":
            return "It may have the mail or not: see whether it arrives."
        return ""


def check_within(seconds: float, draft: Draft | None = None) -> Check:
    """The check of our relay, as far as it comes in `seconds`."""
    check = Check(settings.RELAY, draft)
    if not SLOTS.acquire(blocking=False):
        check.stop("Others are checking the relay at this moment: try again in a minute.")
        return check

    def run() -> None:
        try:
            check.run()
        finally:
            SLOTS.release()

    thread = threading.Thread(target=run, name="relay check", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        check.stop(f"no end within {seconds:g} s")
    return check


class _Over(Exception):
    """A step has failed, or nobody waits any longer."""


def described(certificate: dict) -> str:
    """A certificate in words: for whom, by whom, and until when."""
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    subject = {key: value for part in certificate.get("subject", ()) for key, value in part}
    by = issuer.get("organizationName") or issuer.get("commonName", "nobody")
    whose = ", ".join(names[:5]) or subject.get("commonName", "no name")
    own = ", self-signed" if subject == issuer else f", issued by {by}"
    return f"for {whose}{own}, valid until {ends_at(certificate):%Y-%m-%d}"


def ends_at(certificate: dict) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)


def days_left(certificate: dict) -> int:
    return (ends_at(certificate) - timezone.now()).days


def _without_stage(said: str) -> str:
    """A Trouble's reason; the step is its stage."""
    return re.sub(rf" \(({'|'.join(TITLES)})\)$", "", said)
