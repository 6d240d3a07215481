"""tritonclient's asyncio clients, over HTTP and gRPC."""

import asyncio

from support import CLASSES, close, tensors


def ask(api, server, questions):
    """Runs `questions(client)` with an asyncio client of the same protocol."""

    async def run():
        async with api.module.aio.InferenceServerClient(getattr(server, api.name)) as client:
            return await questions(client)

    return asyncio.run(run())


def test_health(api, server):
    async def questions(client):
        return [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("flat"),
            await client.is_model_ready("versioned", "2"),
            await client.is_model_ready("nobody"),
        ]

    assert ask(api, server, questions) == [True, True, True, True, False]


def test_metadata_config_statistics_and_index_are_readable_as_they_come(api, server):
    """The HTTP client says that it takes gzip and deflate, and then reads these answers without decompressing them."""

    async def questions(client):
        return [
            await client.get_server_metadata(),
            await client.get_model_metadata("versioned"),
            await client.get_model_config("flat"),
            await client.get_inference_statistics(),
            await client.get_model_repository_index(),
        ]

    server_metadata, metadata, config, statistics, index = ask(api, server, questions)
    if api.name == "http":
        assert server_metadata["name"] == "resnetd"
        assert metadata["versions"] == ["1", "2"]
        assert config["name"] == "flat"
        assert "flat" in [row["name"] for row in statistics["model_stats"]]
        assert "flat" in [row["name"] for row in index]
    else:
        assert server_metadata.name == "resnetd"
        assert metadata.versions == ["1", "2"]
        assert config.config.name == "flat"
        assert "flat" in [row.name for row in statistics.model_stats]
        assert "flat" in [row.name for row in index.models]


def test_many_requests_at_once_get_their_own_answers(api, server):
    arrays = [tensors(1, seed=seed) for seed in range(32)]

    async def questions(client):
        return await asyncio.gather(*(client.infer("flat", [api.input(array)]) for array in arrays))

    for array, result in zip(arrays, ask(api, server, questions), strict=True):
        assert close(result.as_numpy("logits"), api.infer(array).as_numpy("logits"))


def test_a_large_answer(api, server):
    result = ask(api, server, lambda client: client.infer("flat", [api.input(tensors(48))]))
    assert result.as_numpy("probabilities").shape == (48, CLASSES)


def test_an_error_names_its_field(api, server):
    # a sentence long enough to be worth compressing
    name = "pictures" * 300
    with api.refuses("invalid", "pictures"):
        ask(api, server, lambda client: client.infer("flat", [api.input(tensors(1), name=name)]))
