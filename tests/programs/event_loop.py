"""asyncio at work: an echo server and its clients, a child on pipes, a thread pool, timers, a signal handler.

Prints the number of each round.
"""

import asyncio
import os
import signal
from itertools import count

from tests.programs.protocol import expect, finish, is_time_to_go

CLIENTS = 5


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line[::-1])
        await writer.drain()
    writer.close()


class Client:
    """A connection that stays, to speak over again and again."""

    async def connect(self, port: int) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def speak(self, words: bytes) -> None:
        self.writer.write(words + b"\n")
        expect("echo", await self.reader.read(len(words) + 1), b"\n" + words[::-1])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients = [await Client().connect(port) for _ in range(CLIENTS)]
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert child.stdin is not None
    assert child.stdout is not None
    signals = asyncio.Queue[int]()
    loop.add_signal_handler(signal.SIGUSR1, signals.put_nowait, signal.SIGUSR1)
    print("ready", flush=True)
    for number in count(1):
        words = b"words %d" % number
        await asyncio.gather(*(client.speak(words) for client in clients))
        child.stdin.write(words + b"\n")
        expect("child", await child.stdout.readline(), words + b"\n")
        os.kill(os.getpid(), signal.SIGUSR1)
        expect("signal", await signals.get(), signal.SIGUSR1)
        expect("thread", await asyncio.to_thread(pow, 3, number, 1000), pow(3, number, 1000))
        before = loop.time()
        await asyncio.sleep(0.01)
        expect("slept long enough", loop.time() - before >= 0.0099, True)
        print(number, flush=True)
        if is_time_to_go():
            break
    for client in clients:
        client.writer.close()
    child.stdin.close()
    expect("status of the child", await child.wait(), 0)
    server.close()


asyncio.run(main())
finish()
