"""Many streams at once for a while: is any lost or mixed, does memory grow, what does serving cost?

    python benchmarks/serve_load.py [--model DIR] [--streams 64] [--minutes 10] [--json]

Starts `perilune serve` on a checkpoint folder (default: a tiny random K2.5), and prints

- mixed, lost: streams whose greedy text differs from that of the request alone, or that failed;
- memory: resident bytes of the server and its engine, the last fifth of the time over the second
  (the first warms up), highest and mean;
- freed: whether all cache pages are given back, with clients that leave in the middle all along;
- overhead: milliseconds a token of one stream, from the server and from the engine alone, in turns
  in the same minutes, and the processor time of the server's process in it, which other work on the
  machine does not change; the same for several streams side by side.

- kill: seconds after a SIGKILL to the engine's process until every client is told, and until the
  server serves again.

Exits with 1 when a stream is lost or mixed, pages stay held, or memory grows by more than 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import psutil

from perilune.engine.async_engine import AsyncEngine
from perilune.engine.sampling_params import SamplingParams
from perilune.exam.load.client import stream_once

PROMPTS = 64
LEAVERS = 4  # clients that go away in the middle, over and over
GROWTH = 0.05
LONG = 2000  # tokens; shorter answers may have ended before the kill
CHAT = "/v1/chat/completions"


def start_server(folder: Path, streams: int, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The process and its address, when it takes requests."""
    command = [
        sys.executable, "-m", "perilune", "serve", str(folder), "--port", "0", "--json",
        "--max-sequences", str(streams + LEAVERS), "--max-queue", str(4 * streams),
        "--cache-tokens", str(cache_tokens(streams)), "--no-request-log",
    ]  # fmt: skip
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the server did not start:\n{log.read_text()}")
    return process, json.loads(line)["url"]


def cache_tokens(streams: int) -> int:
    return (streams + LEAVERS) * 512


def body(number: int, tokens: int, *, stream: bool = True) -> dict[str, Any]:
    words = " ".join(random.Random(number).choices(["tide", "moon", "rock", "dust", "orbit"], k=12))
    return {
        "messages": [{"role": "user", "content": f"{number}: {words}"}],
        "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True, "temperature": 0,
        "thinking": {"type": "disabled"}, "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }  # fmt: skip


async def metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return sum(map(float, re.findall(rf"^perilune:{name}\{{.*\}} (\S+)$", text, re.MULTILINE)))


async def load(client: httpx.AsyncClient, server: int, options: Any) -> dict[str, Any]:
    """The streams, the leavers and the watch over memory."""
    alone = []
    for number in range(PROMPTS):
        record = await stream_once(client, CHAT, body(number, options.tokens), time.monotonic())
        if record.error:
            raise SystemExit(f"a request alone failed: {record.error}")
        alone.append(record.text)
    end = time.monotonic() + options.minutes * 60
    counts = {"streams": 0, "mixed": 0, "left": 0}
    lost: dict[str, int] = {}
    memory: list[int] = []
    tokens = 0

    async def stream(seed: int) -> None:
        nonlocal tokens
        pick = random.Random(seed)
        while time.monotonic() < end:
            number = pick.randrange(PROMPTS)
            asked = body(number, options.tokens)
            record = await stream_once(client, CHAT, asked, time.monotonic())
            counts["streams"] += 1
            tokens += record.output_tokens
            if record.error:
                lost[record.error] = lost.get(record.error, 0) + 1
            elif record.text != alone[number]:
                counts["mixed"] += 1

    async def leave(seed: int) -> None:
        pick = random.Random(seed)
        while time.monotonic() < end:
            asked = body(pick.randrange(10**6), 400, stream=bool(pick.randrange(4)))
            counts["left"] += 1
            try:
                async with asyncio.timeout(pick.uniform(0.01, 1.0)):
                    async with client.stream("POST", CHAT, json=asked) as response:
                        if response.status_code != 200:
                            cause = f"one that would leave: {response.status_code}"
                            lost[cause] = lost.get(cause, 0) + 1
                        async for _ in response.aiter_raw():
                            pass
            except TimeoutError:
                pass

    async def watch() -> None:
        process = psutil.Process(server)
        while time.monotonic() < end:
            family = [process, *process.children(recursive=True)]
            memory.append(sum(one.memory_info().rss for one in family))
            await asyncio.sleep(min(2.0, options.minutes * 60 / 50))

    async with asyncio.TaskGroup() as group:
        for seed in range(options.streams):
            group.create_task(stream(seed))
        for seed in range(LEAVERS):
            group.create_task(leave(seed))
        group.create_task(watch())
    seconds_to_free = await freed(client)
    fifth = max(1, len(memory) // 5)
    second, last = memory[fifth : 2 * fifth] or memory, memory[-fifth:]
    return {
        **counts,
        "lost": lost,
        "tokens": tokens,
        "tokens_per_second": tokens / (options.minutes * 60),
        "memory_mean_growth": statistics.mean(last) / statistics.mean(second) - 1,
        "memory_peak_growth": max(last) / max(second) - 1,
        "memory_bytes": last[-1],
        "seconds_to_free": seconds_to_free,
    }


async def freed(client: httpx.AsyncClient) -> float | None:
    """Seconds until nothing runs and no page is held; None: not within 30."""
    start = time.monotonic()
    while time.monotonic() - start < 30:
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        if not any([await metric(client, name) for name in names]):
            return time.monotonic() - start
        await asyncio.sleep(0.05)
    return None


async def overhead(
    client: httpx.AsyncClient, server: int, folder: Path, options: Any, streams: int
) -> dict[str, float]:
    """Milliseconds a token: the server's and the engine's, each the median of rounds in turns."""
    served, bare, processor = [], [], []
    process = psutil.Process(server)
    engine_options = {
        "cache_tokens": cache_tokens(options.streams),
        "max_sequences": options.streams + LEAVERS,
    }
    tokens = options.overhead_tokens
    async with AsyncEngine(folder, isolation="process", **engine_options) as engine:
        params = SamplingParams(
            max_tokens=tokens, min_tokens=tokens, ignore_eos=True, temperature=0
        )

        async def from_engine(number: int) -> float:
            moments = []
            messages = body(number, tokens)["messages"]
            stream = engine.chat(messages, params, thinking=False)
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    moments += [time.perf_counter()] if output.tokens else []
            return (moments[-1] - moments[0]) / (tokens - 1)

        async def from_server(number: int) -> float:
            record = await stream_once(client, CHAT, body(number, tokens), time.monotonic())
            assert record.error is None, record.error
            return record.per_token or 0.0

        for turn in range(options.rounds + 1):
            for ask, found in ((from_engine, bare), (from_server, served)):
                asked = [ask(1000 + turn * streams + n) for n in range(streams)]
                before = sum(process.cpu_times()[:2])
                values = await asyncio.gather(*asked)
                if turn:  # the first warms up
                    found += values
                    if ask is from_server:
                        used = sum(process.cpu_times()[:2]) - before
                        processor.append(used / (tokens * streams))
    with_server, alone = statistics.median(served) * 1e3, statistics.median(bare) * 1e3
    return {
        "streams": streams,
        "server_ms": with_server,
        "engine_ms": alone,
        "overhead_ms": with_server - alone,
        "server_processor_ms": statistics.median(processor) * 1e3,
    }


async def kill(client: httpx.AsyncClient, server: int, options: Any) -> dict[str, Any]:
    """SIGKILL to the engine's process under streams: seconds until all are told, and served."""
    started: set[int] = set()

    async def stream(number: int) -> bool:
        """Whether the client was told of the failure."""
        said = ""
        async with client.stream("POST", CHAT, json=body(number, LONG)) as response:
            async for line in response.aiter_lines():
                said += line
                started.add(number)
        return '"error"' in said or response.status_code == 503

    streams = [asyncio.create_task(stream(n)) for n in range(options.streams)]
    while len(started) < options.streams and not all(task.done() for task in streams):
        await asyncio.sleep(0.01)
    # The elder of the children is the engine, the younger waits to take over.
    min(psutil.Process(server).children(), key=psutil.Process.create_time).kill()
    moment = time.monotonic()
    told = await asyncio.gather(*streams)
    told_seconds = time.monotonic() - moment
    while (answer := await client.post(CHAT, json=body(1, 2, stream=False))).status_code != 200:
        if answer.status_code != 503:
            raise SystemExit(f"refused after the kill: {answer.text}")
        await asyncio.sleep(0.1)
        if time.monotonic() - moment > 120:
            return {"told": sum(told), "told_seconds": told_seconds, "recovered_seconds": None}
    seconds = time.monotonic() - moment
    return {"told": sum(told), "told_seconds": told_seconds, "recovered_seconds": seconds}


async def measure(folder: Path, url: str, server: int, options: Any) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        result: dict[str, Any] = {"streams_at_once": options.streams, "minutes": options.minutes}
        result["overhead"] = [
            await overhead(client, server, folder, options, streams)
            for streams in options.side_by_side
        ]
        if options.minutes:
            result["load"] = await load(client, server, options)
        result["kill"] = await kill(client, server, options)
        return result


def verdict(result: dict[str, Any]) -> list[str]:
    """What is not as promised."""
    found = []
    work = result.get("load")
    if work:
        if work["mixed"] or work["lost"]:
            found.append(f"{work['mixed']} streams mixed, lost: {work['lost'] or 'none'}")
        if work["seconds_to_free"] is None:
            found.append("cache pages stay held")
        if work["memory_mean_growth"] > GROWTH:
            found.append(f"memory grew by {work['memory_mean_growth']:.1%}")
        if not work["streams"]:
            found.append("no stream came to its end")
    killed = result["kill"]
    if killed["told"] < result["streams_at_once"]:
        found.append(f"only {killed['told']} streams were told that the engine died")
    if killed["recovered_seconds"] is None:
        found.append("the engine did not come back")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="checkpoint folder; default: tiny and random")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=7, help="of the overhead's comparison")
    parser.add_argument("--overhead-tokens", type=int, default=128)
    parser.add_argument("--side-by-side", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model
        if folder is None:
            from perilune.cli.generate import write_demo_checkpoint

            folder = write_demo_checkpoint(Path(temporary) / "tiny")
        process, url = start_server(folder, options.streams, Path(temporary) / "log")
        try:
            result = asyncio.run(measure(folder, url, process.pid, options))
        finally:
            process.terminate()
            process.wait(60)
    wrong = verdict(result)
    if options.json:
        print(json.dumps({**result, "wrong": wrong}))
    else:
        show(result)
        for line in wrong:
            print(f"WRONG: {line}")
    return bool(wrong)


def show(result: dict[str, Any]) -> None:
    for row in result["overhead"]:
        print(
            f"{row['streams']:3} streams: {row['server_ms']:.2f} ms per token served, "
            f"{row['engine_ms']:.2f} from the engine alone: {row['overhead_ms']:+.2f} ms; "
            f"{row['server_processor_ms']:.2f} ms of processor in the server"
        )
    work = result.get("load")
    if work:
        print(
            f"{result['streams_at_once']} streams at once for {result['minutes']:g} minutes: "
            f"{work['streams']} answers, {work['tokens_per_second']:.0f} tokens/s, "
            f"{work['mixed']} mixed, {sum(work['lost'].values())} lost, {work['left']} left early"
        )
        print(
            f"memory {work['memory_bytes'] / 1e6:.0f} MB, {work['memory_mean_growth']:+.1%}; "
            f"everything freed after {work['seconds_to_free'] or -1:.2f} s"
        )
    killed = result["kill"]
    print(
        f"engine killed: {killed['told']} streams told within {killed['told_seconds']:.2f} s, "
        f"serving again after {killed['recovered_seconds'] or -1:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
