"""The task that RQ's and Celery's workers run: build one message, send it over a connection of its own."""

import os
import smtplib

from bench import message


def send(number: int) -> None:
    with smtplib.SMTP("127.0.0.1", int(os.environ["SINK_PORT"])) as smtp:
        smtp.sendmail(message.SENDER, [message.recipient(number)], message.built(number))
