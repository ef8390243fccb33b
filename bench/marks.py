"""A relay that tells when it took which marked mail: `python -m bench.marks PORT`.

For each recipient `mark-…` it prints the address, the moment of the 250 and how many mails it has taken in all.
"""

import asyncio
import re
import sys
import time

MARKED = re.compile(rb"RCPT TO:<(mark-[^@>]*)@", re.IGNORECASE)


class Relay(asyncio.Protocol):
    taken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.buffer, self.in_data, self.mark = transport, b"", False, None
        transport.write(b"220 marks ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answers = []
        while self.in_data or b"\r\n" in self.buffer:
            end = b"\r\n.\r\n" if self.in_data else b"\r\n"
            if end not in self.buffer:
                break
            text, _, self.buffer = self.buffer.partition(end)
            answers.append(self.take() if self.in_data else self.answer(text))
        self.transport.write(b"".join(answers))

    def answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return b"250-marks\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
        if verb == b"RCPT" and (marked := MARKED.match(line)):
            self.mark = marked[1].decode()
        if verb == b"DATA":
            self.in_data = True
            return b"354 go on\r\n"
        if verb == b"QUIT":
            self.transport.close()
        return b"250 2.0.0 Ok\r\n"

    def take(self) -> bytes:
        self.in_data = False
        Relay.taken += 1
        if self.mark:
            print(self.mark, time.time(), Relay.taken, flush=True)
            self.mark = None
        return b"250 2.0.0 Ok\r\n"


async def main(port: str) -> None:
    server = await asyncio.get_running_loop().create_server(Relay, "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
