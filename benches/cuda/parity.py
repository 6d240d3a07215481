#!/usr/bin/env python3
"""Every architecture on the card against the fused engine on the CPU, in f32, of the same program.

Weights and input are those that `resnetd bench` generates: a function of names and one seed, the same on every device.
A line for each network and variant, a summary, and exit code 1 if any is wrong, 2 if some were not reached in --minutes.
Several run at a time, so algorithms are measured badly: they are kept in a folder that is thrown away.
"""

import argparse
import fnmatch
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import Failed, architectures, bench, distance, environment

VARIANTS = "candle:f32,fused:f32,fused:f16,fused:bf16"


def tolerance(precision, name, depth):
    """As far from f32 as rounding alone may lead; of bf16 as in tests/parity.rs."""
    if precision == "bf16":
        if name == "plain56":
            return 5e-2
        return 2e-2 if name in ("plain34", "plain44") or depth > 152 else 1e-2
    return {"f32": 1e-4, "tf32": 1e-2, "f16": 1e-2}[precision]


def check(options, env, folder, network):
    """The lines of one network: (verdict, text)."""
    name, depth = network
    lines = []

    def run(label, **flags):
        dump = Path(folder) / f"{name}-{label}.safetensors"
        try:
            return bench(options.resnetd, name, options.batch, 0, dump, env, **flags)
        finally:
            dump.unlink(missing_ok=True)

    try:
        _, _, expected = run("cpu", device="cpu", engine="fused", precision="f32", threads=options.threads)
    except Failed as error:
        return [("FAIL", f"{name:24} the CPU engine: {error}")]
    for variant in options.variants.split(","):
        engine, precision = variant.split(":")
        label = f"{name:24} {engine:6} {precision:4}"
        try:
            printed, _, found = run(f"{engine}-{precision}", device=options.device, engine=engine, precision=precision)
        except Failed as error:
            lines.append(("FAIL", f"{label} {error}"))
            continue
        ran = (printed["engine"], printed["precision"])
        if ran != (engine, precision) or not printed["device"].startswith(options.device.split(":")[0]):
            lines.append(("FAIL", f"{label} ran as {ran} on {printed['device']}"))
            continue
        if (found["input"] != expected["input"]).any():
            lines.append(("FAIL", f"{label} its input differs"))
            continue
        apart, most = distance(found["logits"], expected["logits"]), tolerance(precision, name, depth)
        lines.append(("ok" if apart <= most else "FAIL", f"{label} {apart:.1e} of {most:.0e}"))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnetd", default="target/release/resnetd")
    parser.add_argument("--models", default="*", help="patterns, separated by commas")
    parser.add_argument("--variants", default=VARIANTS, help="ENGINE:PRECISION, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=4, help="networks at a time")
    parser.add_argument("--threads", type=int, default=4, help="of each run on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="after these, no further network is begun")
    options = parser.parse_args()
    patterns = options.models.split(",")
    end = time.monotonic() + 60 * options.minutes
    verdicts, lock, left = {"ok": 0, "FAIL": 0}, threading.Lock(), []

    with tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder) / "algorithms")
        networks = architectures(options.resnetd, env)
        networks = [n for n in networks if any(fnmatch.fnmatch(n[0], pattern) for pattern in patterns)]
        if not networks:
            sys.exit(f"no architecture is like {options.models}")

        def one(network):
            if time.monotonic() > end:
                left.append(network[0])
                return
            lines = check(options, env, folder, network)
            with lock:
                for verdict, text in lines:
                    verdicts[verdict] += 1
                    print(f"{verdict:4} {text}", flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, networks))
    print(f"{verdicts['ok']} right, {verdicts['FAIL']} wrong, {len(left)} networks not reached: {','.join(left) or 'none'}")
    sys.exit(1 if verdicts["FAIL"] else 2 if left else 0)


if __name__ == "__main__":
    main()
