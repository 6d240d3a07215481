"""The client conformance suite: resnetd's release binary against clients that others wrote.

tritonclient (HTTP and gRPC, blocking and asyncio), grpcio-health-checking and grpcio-reflection talk to one server on
free ports. Run from the root of the repository, after `cargo build --release` and
`pip install --requirement tests/conformance/requirements.txt`:

    python -m pytest tests/conformance

RESNETD_BINARY names another binary. The models are copies of models/resnet20-cifar10 in a temporary folder:

    flat        one version, named by its model.toml
    versioned   versions 1 and 2; the labels of version 2 are in capitals, which tells its answers apart
    counted     used only by the tests of the statistics
    spare       a version 1, which the tests of the life cycle load, change and unload

Most tests run twice, with the HTTP and with the gRPC client: the fixture `api` is one after the other. What only one
protocol has is in test_http.py, test_grpc.py and test_streaming.py.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio

from support import CIFAR10, Api, Server


@pytest.fixture(scope="session")
def models():
    """The folder of models that the server serves."""
    with tempfile.TemporaryDirectory(prefix="resnetd-conformance-") as folder:
        models = Path(folder, "models")
        for copy in ("flat", "versioned/1", "versioned/2", "counted", "spare/1"):
            shutil.copytree(CIFAR10, models / copy)
        labels = models / "versioned/2/labels.txt"
        labels.write_text(labels.read_text().upper())
        yield models


@pytest.fixture(scope="session")
def server(models):
    server = Server(models, log=models.parent / "log")
    try:
        server.wait_until_ready()
        yield server
    except BaseException:
        server.kill()
        raise
    status = server.stop()
    assert status == 0, f"the server ended with status {status}:\n{server.log()}"


@pytest.fixture(scope="session")
def http_api(server):
    with tritonclient.http.InferenceServerClient(server.http, concurrency=16) as client:
        yield Api("http", tritonclient.http, client)


@pytest.fixture(scope="session")
def grpc_api(server):
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        yield Api("grpc", tritonclient.grpc, client)


@pytest.fixture(params=["http", "grpc"])
def api(request):
    """The HTTP client, then the gRPC client."""
    return request.getfixturevalue(f"{request.param}_api")
