"""What the tests share: the server process, the two clients behind one face, tensors and images."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

REPOSITORY = Path(__file__).parents[2]
CIFAR10 = REPOSITORY / "models/resnet20-cifar10"
LABELS = (CIFAR10 / "labels.txt").read_text().split()
CLASSES = len(LABELS)
IMAGES = [
    (REPOSITORY / "tests/data/preprocess" / name).read_bytes()
    for name in ("cat_rgb.png", "coffee_420.jpg", "cat_lossy.webp", "cat.bmp", "cat_animated.gif", "rocket_exif6.jpg")
]
# --max-images-per-request of the server under test
MAX_IMAGES = 64
# for anything that has to happen some time; a loaded machine may take long
PATIENCE = 60.0
STATUS = {
    "http": {"invalid": "400", "not_found": "404", "bad_image": "422", "deadline": "504"},
    "grpc": {
        "invalid": "StatusCode.INVALID_ARGUMENT",
        "not_found": "StatusCode.NOT_FOUND",
        "bad_image": "StatusCode.INVALID_ARGUMENT",
        "deadline": "StatusCode.DEADLINE_EXCEEDED",
    },
}


class Server:
    """`resnetd serve` on free ports; `http` and `grpc` are its addresses."""

    def __init__(self, models, log):
        binary = Path(os.environ.get("RESNETD_BINARY", REPOSITORY / "target/release/resnetd"))
        if not binary.is_file():
            pytest.fail(f"{binary} is missing: build it with cargo build --release, or set RESNETD_BINARY")
        command = [binary, "serve", "--model-dir", models, "--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"]
        command += ["--drain-delay", "0s", "--log-format", "json", "--max-images-per-request", str(MAX_IMAGES)]
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env=clean_environment()
            )

    def log(self):
        return self._log.read_text(errors="replace")

    def wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE
        listening = None
        while not (listening and self._is_ready(listening["http"])):
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not become ready:\n{self.log()}")
            time.sleep(0.02)
            listening = listening or self._listening()
        self.http, self.grpc = listening["http"], listening["grpc"]

    def _listening(self):
        """The event that says where the server listens, once it is in the log."""
        for line in self.log().splitlines(keepends=True):
            if line.endswith("\n") and '"listening"' in line:
                return json.loads(line)
        return None

    @staticmethod
    def _is_ready(address):
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=PATIENCE) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            assert error.code == 503, error
            return False

    def stop(self):
        """Asks the server to stop and gives its exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the server did not stop:\n{self.log()}")

    def kill(self):
        self._process.kill()
        self._process.wait()


def clean_environment():
    """The environment without settings of the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RESNETD_", "HF_"))}


@dataclass(frozen=True)
class Api:
    """One of tritonclient's two clients. Their methods are the same but for a few parameters."""

    name: str
    module: ModuleType
    client: Any

    def input(self, array, name="input", shape=None):
        """An input tensor; `shape` claims one other than the array's."""
        tensor = self.module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor if shape is None else tensor.set_shape(shape)

    def outputs(self, *names, **settings):
        return [self.module.InferRequestedOutput(name, **settings) for name in names]

    def infer(self, array, model="flat", **settings):
        return self.client.infer(model, [self.input(array)], **settings)

    def response(self, result):
        """The answer itself, as a dictionary."""
        return result.get_response() if self.name == "http" else result.get_response(as_json=True)

    def json(self, method, *arguments):
        """The answer of a method that gives messages over gRPC, as a dictionary."""
        settings = {} if self.name == "http" else {"as_json": True}
        return getattr(self.client, method)(*arguments, **settings)

    def index(self):
        """The rows of the repository index."""
        index = self.json("get_model_repository_index")
        return index if self.name == "http" else index["models"]

    def statistics(self, *model):
        """The statistics of versions; gRPC's JSON has its integers as text and leaves out zeros."""
        return self.json("get_inference_statistics", *model)["model_stats"]

    @contextlib.contextmanager
    def refuses(self, status, pattern):
        """Expects an error of the server with this status and a sentence that matches."""
        with pytest.raises(InferenceServerException) as caught:
            yield
        assert caught.value.status() == STATUS[self.name][status], caught.value
        assert re.search(pattern, caught.value.message()), caught.value.message()


def tensors(count, seed=0):
    """Images as they are after normalisation: FP32 [count, 3, 32, 32]."""
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), dtype=np.float32)


def encoded(images):
    """Encoded images as a BYTES tensor."""
    return np.array(images, dtype=np.object_)


def same_bits(left, right):
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def close(left, right):
    """Equal but for the rounding of another batch size."""
    return left.shape == right.shape and np.abs(left - right).max() <= 1e-4 * np.abs(right).max()


def classes(row):
    """Elements "value:index:label" as (float32, int, str)."""
    parts = [(element.decode() if isinstance(element, bytes) else element).split(":") for element in row]
    return [(np.float32(value), int(index), label) for value, index, label in parts]


def post(address, path, body, headers=None):
    """A request with these headers and no others but Host, Content-Length and Accept-Encoding: identity."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
