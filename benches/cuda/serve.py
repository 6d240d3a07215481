#!/usr/bin/env python3
"""End to end: photographs over HTTP and gRPC, and raw tensors over the Open Inference Protocol, to a server on this machine.

  serve.py --images DIR -- resnetd serve --model resnet50=resnet50.safetensors --max-batch 64 --max-queue 2048

starts the server, waits until it is ready, and sends one image a request: first with every --clients that many at a time, for
the most that it answers, then at 80% of the best rate, at random times, each latency counted from when its request was due.
Of the server's own metrics it shows the mean times of an image in each stage, and the cores that server and clients took, so
that one sees where the limit lies: decode + preprocess give the images/s that one core can feed.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench import environment

HTTP, GRPC = 8080, 50051
READY_SECONDS = 400
# calls on one gRPC connection; the server takes 128
CALLS = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("tests/data/preprocess"), help="folder of JPEG files")
    parser.add_argument("--kinds", default="http,grpc,tensor")
    parser.add_argument("--clients", default="64,256,512", help="requests at a time, tried in turn")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 4), help="of clients")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--cache", type=Path, help="folder that keeps the measured algorithms")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- resnetd serve ...")
    options = parser.parse_args()
    options.command = [part for part in options.command if part != "--"]
    if not options.command:
        parser.error("give the server's command after --")
    return options


# what each client process does


def http_sender(path, headers):
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def send(body):
        async with session.post(f"http://127.0.0.1:{HTTP}{path}", data=body, headers=headers) as answer:
            await answer.read()
            return None if answer.status == 200 else str(answer.status)

    return send, session.close


def grpc_sender(clients):
    import grpc

    # else equal channels share one connection
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{GRPC}", options=own) for _ in range(-(-clients // CALLS))]
    calls = [channel.unary_unary("/resnetd.v1.Classifier/Classify") for channel in channels]

    async def send(body):
        try:
            await random.choice(calls)(body, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name

    async def close():
        for channel in channels:
            await channel.close()

    return send, close


def message(image):
    """A ClassifyRequest of one image: field 1, length-delimited."""
    size, length = len(image), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x0a" + length + bytes([size]) + image


async def drive(job):
    if job["kind"] == "grpc":
        send, close = grpc_sender(job["clients"])
    else:
        send, close = http_sender(job["path"], job["headers"])
    # `in_time` are those answered before the measurement ends; the latencies are of all
    bodies, latencies, ends = job["bodies"], [], Counter(in_time=0)
    start = time.perf_counter()
    stop = start + job["seconds"]

    async def one(due):
        try:
            failed = await send(random.choice(bodies))
        except Exception as error:  # noqa: BLE001 counted by its name
            failed = type(error).__name__
        now = time.perf_counter()
        if failed:
            ends[failed] += 1
        else:
            latencies.append(now - due)
            ends["in_time"] += now <= stop

    async def client():
        while time.perf_counter() < stop:
            await one(time.perf_counter())

    async def at_random():
        due, sent = start, set()
        while (due := due + random.expovariate(job["rate"])) < stop:
            await asyncio.sleep(due - time.perf_counter())
            task = asyncio.create_task(one(due))
            sent.add(task)
            task.add_done_callback(sent.discard)
        await asyncio.gather(*sent)

    used = time.process_time()
    if job["rate"]:
        await at_random()
    else:
        await asyncio.gather(*(client() for _ in range(job["clients"])))
    used = time.process_time() - used
    await close()
    return latencies, ends, used


def work(job):
    try:
        import uvloop

        return uvloop.run(drive(job))
    except ImportError:
        return asyncio.run(drive(job))


# the server and its metrics


def get(path):
    connection = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wait_ready(server):
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            if get("/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"the server was not ready within {READY_SECONDS} s")


def scrape():
    """Sums over all labels but `stage`."""
    sums = Counter()
    for line in get("/metrics")[1].splitlines():
        found = re.match(r"(\w+)(\{.*\})? (\S+)$", line)
        if found and "_bucket" not in found[1]:
            stage = re.search(r'stage="(\w+)"', found[2] or "")
            sums[found[1] + (":" + stage[1] if stage else "")] += float(found[3])
    return sums


def cpu_seconds(process):
    """What a running process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def job_of(kind, images):
    """What is sent, and where to."""
    if kind == "http":
        return {"path": "/classify", "headers": {}, "bodies": images}
    if kind == "grpc":
        return {"bodies": [message(image) for image in images]}
    import numpy as np

    model = json.loads(get("/models")[1])["models"][0]["name"]
    shape = json.loads(get(f"/v2/models/{model}")[1])["inputs"][0]["shape"]
    shape = [1, *shape[1:]]
    tensor = np.random.default_rng(1).uniform(-2, 2, shape).astype(np.float32).tobytes()
    tensor_of = {"name": "input", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(tensor)}}
    asked = {"inputs": [tensor_of], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    head = json.dumps(asked).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return {"path": f"/v2/models/{model}/infer", "headers": headers, "bodies": [head + tensor]}


def measure(pool, server, options, kind, images, clients, rate=None):
    share = max(1, clients // options.processes)
    job = {"kind": kind, "clients": share, "rate": rate and rate / options.processes, "seconds": options.seconds}
    job |= job_of(kind, images)
    before, used, begun = scrape(), cpu_seconds(server), time.perf_counter()
    parts = list(pool.map(work, [job] * options.processes))
    taken, used, after = time.perf_counter() - begun, cpu_seconds(server) - used, scrape()
    latencies = sorted(latency for part in parts for latency in part[0])
    ended = sum((part[1] for part in parts), Counter())
    answered = ended.pop("in_time", 0)
    at = lambda percent: round(latencies[(len(latencies) - 1) * percent // 100] * 1e3, 2) if latencies else None  # noqa: E731
    delta = {key: after[key] - before[key] for key in after}

    def mean(name, factor=1e3):
        base, _, stage = name.partition(":")
        count = delta.get(f"{base}_count:{stage}" if stage else f"{base}_count", 0)
        total = delta.get(f"{base}_sum:{stage}" if stage else f"{base}_sum", 0)
        return round(factor * total / count, 3) if count else None

    stages = {f"{s} ms": mean(f"resnetd_stage_duration_seconds:{s}") for s in ("decode", "preprocess", "queue", "inference")}
    prepare = sum(stages[f"{stage} ms"] or 0 for stage in ("decode", "preprocess"))
    return {
        "kind": kind,
        "load": f"{rate:.0f}/s" if rate else f"{share * options.processes} clients",
        "images/s": round(answered / options.seconds, 1),
        "p50 ms": at(50),
        "p99 ms": at(99),
        **stages,
        "batch": mean("resnetd_batch_size", 1),
        "batch ms": mean("resnetd_inference_duration_seconds"),
        "images/s a core": round(1e3 / prepare, 1) if prepare and kind != "tensor" else None,
        "server cores": round(used / taken, 2),
        "client cores": round(sum(part[2] for part in parts) / taken, 2),
        "gpu": after.get("resnetd_gpu_utilization_ratio"),
        "failed": ", ".join(f"{code}: {count}" for code, count in ended.items()),
    }


def show(row, first):
    if first:
        print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
    print("| " + " | ".join("" if cell is None else str(cell) for cell in row.values()) + " |", flush=True)


def main():
    options = arguments()
    files = [file for file in sorted(options.images.iterdir()) if file.suffix.lower() in (".jpg", ".jpeg")]
    images = [file.read_bytes() for file in files]
    if not images:
        sys.exit(f"{options.images} holds no JPEG file")
    print(f"{len(images)} images of {sum(map(len, images)) / len(images) / 1e3:.0f} kB; {' '.join(options.command)}")
    server = subprocess.Popen(options.command, env=environment(options.cache))
    rows = []
    try:
        wait_ready(server)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
            for kind in options.kinds.split(","):
                best, tried = 0.0, [int(clients) for clients in options.clients.split(",")]
                for clients in tried:
                    rows.append(measure(pool, server, options, kind, images, clients))
                    show(rows[-1], len(rows) == 1)
                    best = max(best, rows[-1]["images/s"])
                if best:
                    rows.append(measure(pool, server, options, kind, images, max(tried), 0.8 * best))
                    show(rows[-1], False)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
