"""Load, unload and reload, with the HTTP and with the gRPC client. Only these tests change the model `spare`."""

import asyncio
import shutil
from concurrent.futures import Future

import pytest
from tritonclient.utils import InferenceServerException

from support import CIFAR10, PATIENCE, same_bits, tensors


@pytest.fixture
def spare(api, models):
    """The folder of `spare`, which is loaded before and after the test."""
    folder = models / "spare"
    api.client.load_model("spare")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(CIFAR10, folder / "1")
    api.client.load_model("spare")


def rows(api):
    """Of `spare` in the index: version to (state, reason)."""
    return {row["version"]: (row["state"], row.get("reason", "")) for row in api.index() if row["name"] == "spare"}


def answering(api):
    """The version of `spare` that answers."""
    return api.response(api.infer(tensors(1), model="spare"))["model_version"]


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(api, spare):
    before = api.infer(tensors(1), model="spare").as_numpy("logits")
    api.client.unload_model("spare")
    assert not api.client.is_model_ready("spare")
    assert not api.client.is_model_ready("spare", "1")
    assert rows(api)["1"][0] == "UNAVAILABLE"
    with api.refuses("not_found", "spare"):
        api.infer(tensors(1), model="spare")
    with api.refuses("not_found", "spare"):
        api.client.get_model_metadata("spare")

    api.client.load_model("spare")
    assert api.client.is_model_ready("spare")
    assert rows(api)["1"][0] == "READY"
    assert same_bits(api.infer(tensors(1), model="spare").as_numpy("logits"), before)


def test_the_server_and_the_other_models_stay_ready_without_an_unloaded_one(api, spare):
    api.client.unload_model("spare")
    assert api.client.is_server_live()
    assert api.client.is_server_ready()
    assert api.client.is_model_ready("flat")
    assert api.infer(tensors(1)).as_numpy("logits") is not None


@pytest.mark.parametrize("dependents", [True, False])
def test_unload_takes_unload_dependents(api, spare, dependents):
    api.client.unload_model("spare", unload_dependents=dependents)
    assert not api.client.is_model_ready("spare")


def test_a_loaded_model_may_be_loaded_again(api, spare):
    before = api.infer(tensors(1), model="spare").as_numpy("logits")
    api.client.load_model("spare")
    assert same_bits(api.infer(tensors(1), model="spare").as_numpy("logits"), before)


def test_a_reload_fails_no_request_that_is_under_way(api, grpc_api, spare):
    pending = []
    for _ in range(4):
        for _ in range(8):
            answer = Future()
            grpc_api.client.async_infer(
                "spare",
                [grpc_api.input(tensors(4))],
                lambda result, error, answer=answer: answer.set_result((result, error)),
            )
            pending.append(answer)
        api.client.load_model("spare")
    answers = [answer.result(PATIENCE) for answer in pending]
    assert [error for _, error in answers if error is not None] == []
    assert {result.as_numpy("logits").shape[0] for result, _ in answers} == {4}


def test_load_finds_new_versions_and_drops_those_that_are_gone(api, spare):
    shutil.copytree(CIFAR10, spare / "10")
    shutil.copytree(CIFAR10, spare / "2")
    assert answering(api) == "1"
    api.client.load_model("spare")
    assert answering(api) == "10"
    assert {version: state for version, (state, _) in rows(api).items()} == dict.fromkeys(["1", "2", "10"], "READY")

    shutil.rmtree(spare / "10")
    api.client.load_model("spare")
    assert answering(api) == "2"
    assert not api.client.is_model_ready("spare", "10")
    with api.refuses("not_found", "10"):
        api.infer(tensors(1), model="spare", model_version="10")


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_serving(api, spare):
    shutil.copytree(CIFAR10, spare / "2")
    (spare / "2/weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(InferenceServerException):
        api.client.load_model("spare")
    assert answering(api) == "1"
    assert rows(api)["1"][0] == "READY"
    state, reason = rows(api)["2"]
    assert state == "UNAVAILABLE"
    assert reason


def test_a_reload_that_fails_leaves_the_version_serving_and_says_why(api, spare):
    description = spare / "1/model.toml"
    good = description.read_text()
    description.write_text(good.replace("resnet20", "resnet20000"))
    with pytest.raises(InferenceServerException):
        api.client.load_model("spare")
    assert answering(api) == "1"
    state, reason = rows(api)["1"]
    assert state == "READY"
    assert "resnet20000" in reason

    description.write_text(good)
    api.client.load_model("spare")
    assert rows(api)["1"] == ("READY", "")


def test_an_unknown_model_cannot_be_loaded_or_unloaded(api):
    with api.refuses("not_found", "nobody"):
        api.client.load_model("nobody")
    with api.refuses("not_found", "nobody"):
        api.client.unload_model("nobody")


def test_a_load_that_overrides_the_config_is_refused(api, spare):
    with api.refuses("invalid", "config"):
        api.client.load_model("spare", config='{"max_batch_size": 1}')
    assert answering(api) == "1"


def test_a_load_that_brings_its_own_files_is_refused(api, spare):
    with api.refuses("invalid", "file"):
        api.client.load_model("spare", files={"file:1/weights.safetensors": b"no weights"})
    assert answering(api) == "1"


def test_the_asyncio_client_unloads_and_loads(api, server, spare):
    async def run():
        async with api.module.aio.InferenceServerClient(getattr(server, api.name)) as client:
            await client.unload_model("spare", unload_dependents=True)
            unloaded = await client.is_model_ready("spare")
            await client.load_model("spare")
            return unloaded, await client.is_model_ready("spare")

    assert asyncio.run(run()) == (False, True)
