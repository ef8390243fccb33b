"""The message that everybody sends: text and HTML of 20 lines each.

Peers read this too, in an environment of their own: nothing but the standard library.
"""

import json
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

SENDER = "shop@example.com"
SUBJECT = "Your order has been sent"
TEXT = "".join(f"Line {n} of a mail that is neither long nor short, as they are.\n" for n in range(20))
HTML = "".join(f"<p>Line {n} of a mail that is <b>neither</b> long nor short.</p>\n" for n in range(20))


def recipient(number: int) -> str:
    return f"customer-{number}@example.com"


def fields(number: int) -> dict[str, str]:
    """Under the names of the API."""
    return {"from": SENDER, "to": recipient(number), "subject": SUBJECT, "text": TEXT, "html": HTML}


def as_json(number: int) -> str:
    return json.dumps(fields(number))


def built(number: int) -> bytes:
    """By the standard library."""
    message = EmailMessage(policy=SMTP)
    message["From"] = SENDER
    message["To"] = recipient(number)
    message["Subject"] = SUBJECT
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="example.com")
    message.set_content(TEXT)
    message.add_alternative(HTML, subtype="html")
    return message.as_bytes()
