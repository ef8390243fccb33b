"""No queue at all: smtplib in a loop over one connection. Prints the seconds that it took.

`python -m bench.peers.raw PORT COUNT` builds each message with the standard library; with `prebuilt` it sends the
same bytes again and again.
"""

import smtplib
import sys
import time

from bench import message


def main(port: str, count: str, how: str = "built") -> None:
    prebuilt = message.built(0) if how == "prebuilt" else None
    with smtplib.SMTP("127.0.0.1", int(port)) as smtp:
        smtp.ehlo()
        started = time.perf_counter()
        for number in range(int(count)):
            smtp.sendmail(message.SENDER, [message.recipient(number)], prebuilt or message.built(number))
        print(time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
