#!/usr/bin/env python3
"""resnetd's engines beside PyTorch's best on one GPU, in one run, in shuffled turns, answers checked.

Contenders: `fused` and `candle`, by `resnetd bench`; `graph`, PyTorch in channels_last with batch norm folded, cuDNN's
algorithms measured and the forward pass under a captured CUDA graph; `compile`, torch.compile(mode="max-autotune") of the
same. candle computes in f32 (without TF32), all others in --precision.

Two figures: `whole` takes f32 images from host memory and brings logits back, as `resnetd bench` does (PyTorch's images lie
in pinned memory already, resnetd copies them there first); `alone` is the forward pass on the card: of PyTorch timed batch by
batch, of the fused engine what it logs of its graph. A ratio is the median over rounds of fused / best PyTorch of the round.
A run whose logits are further than 1e-2 (relative, L2) from PyTorch's in f32, or that ran as something else, counts 0.

Rows are kept in --results and not measured again unless a contender is missing, so that a long list can be done in pieces
of --minutes.
"""

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

MODELS = "resnet18,resnet50,resnet152,resnext50_32x4d,wide_resnet50_2"
LIMITS = {"f16": 1e-2, "bf16": 1e-2, "f32": 1e-4}
# dense f16 multiply-adds with f32 sums (TFLOP/s) and memory (TB/s), from NVIDIA's data sheets of these cards
CARDS = {
    "H200": (989.4, 4.8),
    "H100 PCIe": (756.0, 2.0),
    "H100 NVL": (835.5, 3.9),
    "H100": (989.4, 3.35),
    "A100-SXM4-80GB": (312.0, 2.039),
    "A100": (312.0, 1.555),
    "L40S": (362.05, 0.864),
    "L4": (121.0, 0.3),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnetd", default="target/release/resnetd")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batches", default="1,8,64,256")
    parser.add_argument("--contenders", default="fused,candle,graph,compile")
    parser.add_argument("--precision", default="f16", choices=LIMITS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=8.0, help="after these, no further row is begun")
    parser.add_argument("--results", type=Path, default=Path("compare.jsonl"), help="one JSON object a row")
    parser.add_argument("--again", action="store_true", help="measure rows that are in --results once more")
    temp = Path(tempfile.gettempdir()) / "resnetd-compare"
    parser.add_argument("--cache", type=Path, default=temp, help="weights, algorithms, what torch.compile made")
    return parser.parse_args()


options = arguments()
options.cache.mkdir(parents=True, exist_ok=True)
# read when torch is imported
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.cache / "inductor"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from bench import Failed, bench, distance, environment  # noqa: E402
from peers import Peer, layers, network, reference  # noqa: E402


def figures(batch, times):
    """Images a second at the median, and percentiles in milliseconds, of sorted seconds."""
    at = lambda percent: times[max(-(-len(times) * percent // 100), 1) - 1]  # noqa: E731
    return {"rate": batch / at(50), "p50": at(50) * 1e3, "p99": at(99) * 1e3}


class Row:
    """One network at one batch size."""

    def __init__(self, name, batch):
        self.name, self.batch = name, batch
        self.weights = options.cache / f"{name}.safetensors"
        self.net = network(name, self.weights)
        self.env = environment(options.cache / "algorithms")
        self.notes, self.peers, self.rounds = [], {}, []
        self.input = self.expected = None
        self.wanted = options.contenders.split(",")

    def resnetd(self, engine, seconds):
        """One run, checked; its figures."""
        precision = "f32" if engine == "candle" else options.precision
        dump = options.cache / "dump.safetensors"
        printed, card, found = bench(
            options.resnetd, self.name, self.batch, seconds, dump, self.env,
            device=options.device, engine=engine, precision=precision, weights=self.weights,
        )  # fmt: skip
        dump.unlink()
        if self.expected is None:
            self.input = found["input"]
            self.expected = reference(self.net, torch.from_numpy(self.input), options.device)
        error = distance(found["logits"], self.expected)
        ran = (printed["engine"], printed["precision"])
        if ran != (engine, precision) or error > LIMITS[precision] or not np.array_equal(found["input"], self.input):
            self.notes.append(f"{engine} is wrong: ran as {ran}, {error:.1e} off")
            return {"rate": 0.0, "p50": 0.0, "p99": 0.0, "error": error}
        latency = printed["latency_ms"]
        result = {"rate": printed["images_per_second"], "p50": latency["p50"], "p99": latency["p99"], "error": error}
        if card:
            result["alone"] = self.batch / card
        return result

    def peer(self, kind):
        peer = self.peers[kind]
        result = figures(self.batch, peer.times(peer.whole, options.seconds))
        result["error"] = distance(peer.logits.float().numpy(), self.expected)
        if result["error"] > LIMITS[options.precision]:
            self.notes.append(f"{kind} is {result['error']:.1e} off")
        if peer.cuda:
            alone = figures(self.batch, peer.times(peer.alone, options.seconds))
            result["alone"], result["alone_p50"], result["alone_p99"] = alone["rate"], alone["p50"], alone["p99"]
        return result

    def prepare(self):
        """Runs each contender once unmeasured: algorithms are found, graphs captured, kernels compiled."""
        for engine in [c for c in self.wanted if c in ("fused", "candle")]:
            try:
                self.resnetd(engine, 0.0)
            except Failed as error:
                self.notes.append(f"{engine}: {error}")
                self.wanted.remove(engine)
        if self.expected is None:
            generator = np.random.default_rng(1)
            self.input = generator.uniform(-2, 2, (self.batch, 3, 224, 224)).astype(np.float32)
            self.expected = reference(self.net, torch.from_numpy(self.input), options.device)
        for kind in [c for c in self.wanted if c in ("graph", "compile")]:
            begun = time.monotonic()
            try:
                images = torch.from_numpy(self.input)
                self.peers[kind] = Peer(self.net, images, options.precision, options.device, kind)
            except Exception as error:  # noqa: BLE001 whatever a peer cannot do is said in the row
                self.notes.append(f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                self.wanted.remove(kind)
            print(f"  {kind} made in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    def measure(self):
        self.prepare()
        for _ in range(options.rounds):
            got = {}
            for contender in random.sample(self.wanted, len(self.wanted)):
                try:
                    engine = contender in ("fused", "candle")
                    got[contender] = self.resnetd(contender, options.seconds) if engine else self.peer(contender)
                except Failed as error:
                    self.notes.append(f"{contender}: {error}")
                    got[contender] = {"rate": 0.0, "p50": 0.0, "p99": 0.0}
            self.rounds.append(got)
        return self.result()

    def ratio(self, key):
        """Median over rounds of fused / best PyTorch."""
        ratios = []
        for got in self.rounds:
            peers = [got[kind][key] for kind in self.peers if key in got[kind]]
            if peers and key in got.get("fused", {}):
                ratios.append(got["fused"][key] / max(peers))
        return round(statistics.median(ratios), 3) if ratios else None

    def result(self):
        median = {}
        for contender in self.wanted:
            keys = set.intersection(*(set(got[contender]) for got in self.rounds))
            values = {key: statistics.median(got[contender][key] for got in self.rounds) for key in sorted(keys)}
            median[contender] = {key: float(f"{value:.5g}") for key, value in values.items()}
        row = {"model": self.name, "batch": self.batch, "precision": options.precision, "card": card()}
        row |= {"torch": torch.__version__, **median, "ratio": self.ratio("rate"), "ratio_alone": self.ratio("alone")}
        return row | {"roofline": self.roofline(median), "notes": sorted(set(self.notes))}

    def roofline(self, median):
        """Of the least time that the card's arithmetic or memory allows each layer, and of its arithmetic alone: the shares
        that each contender's forward pass reaches. None where the card is not known or the precision is not f16."""
        peak = next((peak for name, peak in CARDS.items() if name in card()), None)
        if peak is None or options.precision != "f16":
            return None
        flops, memory = peak[0] * 1e12, peak[1] * 1e12
        found = layers(self.net.cpu())
        arithmetic = [2 * macs * self.batch / flops for macs, _, _ in found]
        moving = [2 * (moved * self.batch + weights) / memory for _, moved, weights in found]
        least = sum(map(max, arithmetic, moving))
        shares = {}
        for contender, values in median.items():
            rate = values.get("alone")
            if rate and contender != "candle":
                taken = self.batch / rate
                shares[contender] = {"roofline": round(least / taken, 3), "arithmetic": round(sum(arithmetic) / taken, 3)}
        return shares


def card():
    return torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"


def table(rows):
    """The rows as Markdown."""
    head = ["model", "batch", "fused img/s", "p50 ms", "p99 ms", "candle", "graph", "compile", "ratio"]
    head += ["fused alone", "graph alone", "compile alone", "ratio alone", "of roofline", "of arithmetic", "notes"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        value = lambda contender, key: row.get(contender, {}).get(key, "")  # noqa: E731
        shares = (row["roofline"] or {}).get("fused", {})
        cells = [row["model"], row["batch"], value("fused", "rate"), value("fused", "p50"), value("fused", "p99")]
        cells += [value(contender, "rate") for contender in ("candle", "graph", "compile")] + [row["ratio"]]
        cells += [value(contender, "alone") for contender in ("fused", "graph", "compile")] + [row["ratio_alone"]]
        cells += [shares.get("roofline"), shares.get("arithmetic"), "; ".join(row["notes"])]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main():
    end = time.monotonic() + 60 * options.minutes
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = {(row["model"], row["batch"], row["precision"]): row for row in map(json.loads, lines)}
    wanted = [(name, int(batch)) for batch in options.batches.split(",") for name in options.models.split(",")]
    for name, batch in wanted:
        key = (name, batch, options.precision)
        if not options.again and all(contender in rows.get(key, {}) for contender in options.contenders.split(",")):
            continue
        if time.monotonic() > end:
            print(f"--minutes are over: {name} at {batch} and what follows is left", flush=True)
            break
        begun = time.monotonic()
        row = Row(name, batch).measure()
        rows[key] = row
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{json.dumps(row)}  # {time.monotonic() - begun:.0f} s", flush=True)
        if options.device.startswith("cuda"):
            # peers hold themselves
            gc.collect()
            torch.cuda.empty_cache()
    print(table(rows.values()))


if __name__ == "__main__":
    main()
