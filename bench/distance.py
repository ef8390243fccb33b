"""A relay that is far away: `python -m bench.distance PORT TO MILLISECONDS` passes on what it gets, that much later.

Half of the time is spent on the way there, half on the way back. Bytes that come together travel together.
"""

import asyncio
import sys
from contextlib import suppress
from functools import partial


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """One direction of a connection: reads on while what was read before is under way."""
    loop, under_way = asyncio.get_running_loop(), asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, some = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not some:
                return writer.close()
            writer.write(some)

    arriving = asyncio.create_task(arrive())
    with suppress(ConnectionError):
        while some := await reader.read(1 << 16):
            under_way.put_nowait((loop.time() + delay, some))
    under_way.put_nowait((loop.time() + delay, b""))
    await arriving


async def connect(port: int, delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(carry(reader, back, delay), carry(there, writer, delay))


async def main(port: str, to: str, milliseconds: str) -> None:
    delay = float(milliseconds) / 2000
    server = await asyncio.start_server(partial(connect, int(to), delay), "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
