"""Builds the same messages with Mailsite and with the standard library, side by side: `python -m bench.mime`.

Both build in turn, round by round, so that a busy machine slows both. Prints, for each message, the time of one
build and how many times faster ours is: the least, the middle and the most of all rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from bench.message import HTML, TEXT
from emails.mime import Attachment, Message, build

SENDER, RECIPIENT, ID = "Shop <shop@example.com>", "Moss <moss@example.com>", "<0190c2aa@example.com>"
DATE = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


def ours(subject: str, text: str, html: str, content: bytes | None) -> bytes:
    attachments = [Attachment("file.bin", content)] if content else []
    return build(Message(SENDER, [RECIPIENT], subject, ID, text, html, attachments=attachments, date=DATE))


def theirs(subject: str, text: str, html: str, content: bytes | None) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = SENDER
    message["To"] = RECIPIENT
    message["Subject"] = subject
    message["Date"] = format_datetime(DATE)
    message["Message-ID"] = ID
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    if content:
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename="file.bin")
    return message.as_bytes()


def seconds(build: Callable[..., bytes], arguments: tuple, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        build(*arguments)
    return (time.perf_counter() - started) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    accented = TEXT.replace("mail", "Gruß"), HTML.replace("mail", "Gruß")
    messages = {
        "text and HTML of 20 lines": (("Your order has been sent", TEXT, HTML, None), 100),
        "the same with accents": (("Ihre Bestellung für Sie", *accented, None), 100),
        "with 5 MB attached": (("Your order has been sent", TEXT, HTML, os.urandom(5 * 1024 * 1024)), 1),
    }
    print(f"{'':28}{'ours':>12}{'library':>12}   times faster: least  middle  most   ({rounds} rounds)")
    for name, (arguments, times) in messages.items():
        for warm_up in (ours, theirs):
            seconds(warm_up, arguments, times)
        pairs = [(seconds(ours, arguments, times), seconds(theirs, arguments, times)) for _ in range(rounds)]
        our, their = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
        ratios = [library / own for own, library in pairs]
        found = f"{min(ratios):19.1f}{statistics.median(ratios):8.1f}{max(ratios):6.1f}"
        print(f"{name:28}{our:9.3f} ms{their:9.3f} ms {found}")


if __name__ == "__main__":
    main()
