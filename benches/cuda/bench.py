"""What the scripts of this folder share: running `resnetd bench` and judging what it dumps."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

SECONDS_TO_END = 600


def environment(cache=None):
    """The environment of a CUDA build where PyTorch's wheels bring the CUDA libraries; `cache` keeps algorithms."""
    env = dict(os.environ)
    site = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    folders = [site / "cu13" / "lib", site / "cudnn" / "lib"]
    found = [str(folder) for folder in folders if folder.is_dir()]
    env["LD_LIBRARY_PATH"] = ":".join(filter(None, [env.get("LD_LIBRARY_PATH"), *found]))
    if cache:
        env["RESNETD_CUDA_CACHE"] = str(cache)
    return env


class Failed(Exception):
    """A run that gave no result; the text says why."""


def bench(program, architecture, batch, seconds, dump, env, **flags):
    """Runs `resnetd bench`; returns what it printed, its seconds on the card (None where unknown) and what it dumped."""
    command = [program, "--log-format", "json", "bench", "--json", "--architecture", architecture]
    command += ["--batch", batch, "--seconds", seconds, "--dump", dump]
    for name, value in flags.items():
        if value is not None:
            command += ["--" + name.replace("_", "-"), value]
    command = [str(part) for part in command]
    if flags.get("engine") == "candle":
        # cuDNN's default, which candle leaves as it is, lets f32 convolutions multiply with 10 bits of mantissa
        env = env | {"NVIDIA_TF32_OVERRIDE": "0"}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within {SECONDS_TO_END} s: {' '.join(command)}") from error
    if ran.returncode:
        said = " ".join(ran.stderr.split())[-600:]
        raise Failed(f"exit {ran.returncode}: {said or 'no word'} ({' '.join(command)})")
    printed = json.loads(ran.stdout.strip().splitlines()[-1])
    return printed, on_card(ran.stderr, batch), load_file(dump)


def on_card(log, batch):
    """Seconds that the captured graph of that batch took when it was made, as the fused engine logs them."""
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("message") == "captured" and event.get("batch") == batch:
            return event["milliseconds"] / 1e3
    return None


def distance(found, expected):
    """Relative, in L2; infinite where the shapes differ or a value is no number."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def architectures(program, env):
    """Names and depths that the program knows."""
    ran = subprocess.run([program, "models"], capture_output=True, text=True, env=env)
    if ran.returncode:
        raise Failed(f"{program} models: {ran.stderr.strip()}")
    rows = [re.split(r"\s{2,}", line.strip()) for line in ran.stdout.splitlines()[1:]]
    return [(row[0], int(row[2])) for row in rows]
