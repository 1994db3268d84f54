"""The server under load: 64 clients, some of them invalid, slow or cut off; and its throughput.

Two parts. First `swinclf serve` and `predict` of the Python API label the same photographs in
turns; the clients share the cores with the server. Then, for some seconds, half of the clients send
photographs and the others what should not be sent: every response has to be the row of `predict`
or a status of 4xx or 503, and the server's memory has to stay as it was. Linux only.

    python benchmarks/serve.py --seconds 300
    python benchmarks/serve.py --count 200 --seconds 30 --rounds 1
    python benchmarks/serve.py --photos flowers --model swin_tiny_patch4_window7_224
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import timing

PREDICT = """
import json, sys, time, swinclf
classifier = swinclf.load(sys.argv[1])
paths = json.loads(sys.stdin.readline())
classifier.predict(paths[:32])
while sys.stdin.readline():
    start, cpu = time.perf_counter(), time.process_time()
    classifier.predict(paths)
    print(time.perf_counter() - start, time.process_time() - cpu, flush=True)
"""
LIMITS = ("--max-seconds", "10", "--max-file", "8", "--max-request", "16")
TOLERANCE = 1e-3  # of a probability: the last digits depend on the size of the batch
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno image\r\n'
KINDS = ("text", "truncated", "huge", "wide", "slow", "cut off", "many")


class Server:
    """A running `swinclf serve`.

    Args:
        run: The run.
        words: More options.
    """

    def __init__(self, run: Path, *words: str) -> None:
        command = [*timing.SWINCLF, "serve", "--run", str(run), "--port", "0", "--json", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        atexit.register(self._process.kill)  # if the benchmark fails
        assert self._process.stdout
        self.port = int(json.loads(self._process.stdout.readline())["url"].rpartition(":")[2])

    def memory_mib(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) // 2**10

    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """Stops it; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)


class Client:
    """A connection to the server that is opened again when it has been closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def send(
        self, body: bytes, *, kind: str = "", declared: int | None = None, slowly: bool = False
    ) -> tuple[int, bytes]:
        """Sends a body, of which more may be declared; status and body of the response."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        size = len(body) if declared is None else declared
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
        self._writer.write(f"{head}Content-Type: {kind or 'image/jpeg'}\r\n\r\n".encode())
        for at in range(0, len(body), 2**16):
            self._writer.write(body[at : at + 2**16])
            await self._writer.drain()
            if slowly:
                await asyncio.sleep(1)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        text = await self._reader.readexactly(int(head.split("content-length: ")[1].split()[0]))
        return int(head.split()[1]), text

    async def cut_off(self, body: bytes) -> None:
        """Declares a body, sends a part of it, and is gone."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.send(body[:1000], declared=len(body)), 0.2)
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Load:
    """Clients with something to send, and what comes of it.

    Args:
        port: Of the server.
        photos: Photographs, with the label and the probability of each.
    """

    def __init__(self, port: int, photos: list[tuple[bytes, str, float]]) -> None:
        self._port, self._photos = port, photos
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def label_all(self, clients: int) -> float:
        """Labels all photographs once; the seconds that took."""
        left = iter(self._photos)

        async def work() -> None:
            client = Client(self._port)
            for photo in left:
                await self._send_photo(client, photo)
            client.close()

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(clients)))
        return time.perf_counter() - start

    async def mix(self, clients: int, seconds: float, server: Server) -> list[int]:
        """Half of the clients send photographs, the others each kind of what should not be sent.

        Returns:
            The server's memory, MiB, at the start and after every tenth of the time.
        """
        until = time.monotonic() + seconds
        memory_mib = [server.memory_mib()]

        async def watch() -> None:
            for _ in range(10):
                await asyncio.sleep(seconds / 10)
                memory_mib.append(server.memory_mib())

        async def work(number: int) -> None:
            client, draw = Client(self._port), random.Random(number)
            while time.monotonic() < until:
                photo = draw.choice(self._photos)
                if number % 2:
                    await self._send_photo(client, photo)
                else:
                    await self._send_other(client, KINDS[number // 2 % len(KINDS)], photo[0])
            client.close()

        await asyncio.gather(watch(), *(work(number) for number in range(clients)))
        return memory_mib

    async def _send_photo(self, client: Client, photo: tuple[bytes, str, float]) -> None:
        body, label, probability = photo
        status, text = await client.send(body)
        self._note("photograph", status, text)
        if status == 200:
            row = json.loads(text)
            if row["label"] != label or abs(row["probability"] - probability) > TOLERANCE:
                self.wrong.append(f"{row} instead of {label} {probability}")

    async def _send_other(self, client: Client, kind: str, photo: bytes) -> None:
        if kind == "cut off":
            await client.cut_off(photo)
            self.statuses["cut off: none"] += 1
            await asyncio.sleep(0.1)
            return
        body = {
            "text": b"no image" * 100,
            "truncated": photo[: len(photo) // 2],
            "huge": bytes(9 * 2**20),
            "wide": WIDE,
            "many": 100 * PART + b"--x--\r\n",
            "slow": bytes(15 * 2**16),  # too slow by half; at twice the limit it is cut off
        }[kind]
        form = "multipart/form-data; boundary=x" if kind == "many" else ""
        status, text = await client.send(body, kind=form, slowly=kind == "slow")
        self._note(kind, status, text)
        if status == 200:
            self.wrong.append(f"{kind}: {text[:100]!r}")
        await asyncio.sleep(0.1)

    def _note(self, kind: str, status: int, text: bytes) -> None:
        self.statuses[f"{kind}: {status}"] += 1
        json.loads(text)
        if not (status == 200 or 400 <= status < 500 or status == 503):
            self.wrong.append(f"{kind}: {status} {text[:100]!r}")


def _wide_png() -> bytes:
    """A small file of an image that is too large to decode."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


WIDE = _wide_png()


@contextmanager
def predicting(run: Path, paths: list[Path]) -> Iterator[subprocess.Popen[str]]:
    """A process that labels the photographs whenever it gets a line, and prints both its times."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREDICT, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.parser(__doc__, photos=400, rounds=3)
    parser.set_defaults(model="embedded")
    parser.add_argument("--seconds", type=float, default=120, help="of the mixed load [120]")
    parser.add_argument("--clients", type=int, default=64, help="at a time [64]")
    options = parser.parse_args(arguments)
    report = timing.Report("serve")
    with timing.workplace(options) as work:
        run, paths = train(options, work)
        labels = work / "labels.jsonl"
        timing.run([*timing.SWINCLF, "predict", *paths, "--run", run, "--output", labels])
        rows = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
        photos = [
            (path.read_bytes(), row["label"], row["probability"])
            for path, row in zip(paths, rows, strict=True)
        ]
        measure_throughput(options, run, paths, photos, report)
        measure_mixed(options, run, photos, report)


def train(options: argparse.Namespace, work: Path) -> tuple[Path, list[Path]]:
    """A run whose head was trained on a few photographs, and all photographs."""
    data = timing.photos_for(options, work)
    few = timing.photos_for(argparse.Namespace(**{**vars(options), "count": 50}), work)
    start = ["--model", options.model]
    if options.model != "embedded":
        start += ["--weights", str(timing.weights_for(options, work))]
    words = ["--freeze-layers", "--epochs", "5", "--out", str(work), "--name", "run"]
    timing.run([*timing.SWINCLF, "train", few, *start, *words], SWINCLF_CACHE_DIR=work / "cache")
    return work / "run", sorted(data.rglob("*.jpg"))


def measure_throughput(
    options: argparse.Namespace,
    run: Path,
    paths: list[Path],
    photos: list[tuple[bytes, str, float]],
    report: timing.Report,
) -> None:
    """Both sides in turns, each already started."""
    server = Server(run)
    seconds, cpu_s = (dict[str, list[float]](serve=[], predict=[]) for _ in range(2))
    with predicting(run, paths) as process:
        assert process.stdin
        assert process.stdout
        load = Load(server.port, photos)
        asyncio.run(load.label_all(options.clients))  # warms up
        for _ in range(options.rounds):
            process.stdin.write("\n")
            process.stdin.flush()
            for times, text in zip(
                (seconds, cpu_s), process.stdout.readline().split(), strict=True
            ):
                times["predict"].append(float(text))
            before = server.cpu_s()
            seconds["serve"].append(asyncio.run(load.label_all(options.clients)))
            cpu_s["serve"].append(server.cpu_s() - before)
    report.add(
        f"{len(paths)} photographs, {options.clients} clients",
        predict_images_per_second=len(paths) / statistics.median(seconds["predict"]),
        serve_images_per_second=len(paths) / statistics.median(seconds["serve"]),
        times_as_fast=timing.median_ratio(seconds["predict"], seconds["serve"]),
        times_as_fast_by_cpu_time=timing.median_ratio(cpu_s["predict"], cpu_s["serve"]),
        wrong=len(load.wrong),
        exit_code=server.stop(),
    )
    assert not load.wrong, load.wrong[:3]


def measure_mixed(
    options: argparse.Namespace,
    run: Path,
    photos: list[tuple[bytes, str, float]],
    report: timing.Report,
) -> None:
    """The mixed load."""
    server = Server(run, *LIMITS)
    load = Load(server.port, photos)
    memory_mib = asyncio.run(load.mix(options.clients, options.seconds, server))
    report.add(
        f"mixed load of {options.clients} clients for {options.seconds:g} s",
        **dict(sorted(load.statuses.items())),
        wrong=len(load.wrong),
        memory_mib=memory_mib,
        exit_code=server.stop(),
    )
    assert not load.wrong, load.wrong[:3]


if __name__ == "__main__":
    main(sys.argv[1:])
