"""ModelStreamInfer, with the blocking and with the asyncio client."""

import asyncio

import numpy as np
import pytest
import tritonclient.grpc.aio
from tritonclient.grpc import InferenceServerClient

from support import CLASSES, close, encoded, tensors


def answers_of(server, requests, **settings):
    """Sends requests over one stream; gives its (result, error) in the order of their coming."""
    answers = []
    with InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.append((result, error)), **settings)
        for request in requests:
            client.async_stream_infer(**request)
        # closes our side and waits for the server's
        client.stop_stream()
    return answers


def request_of(api, array, number, model="flat", **settings):
    return {"model_name": model, "inputs": [api.input(array)], "request_id": str(number), **settings}


def test_answers_come_in_the_order_of_the_requests(grpc_api, server):
    # large and small ones, which take different times
    arrays = [tensors(16 if number % 3 == 0 else 1, seed=number) for number in range(24)]
    requests = [request_of(grpc_api, array, number) for number, array in enumerate(arrays)]
    answers = answers_of(server, requests)
    assert [error for _, error in answers if error is not None] == []
    assert [result.get_response().id for result, _ in answers] == [str(number) for number in range(24)]
    for array, (result, _) in zip(arrays, answers, strict=True):
        assert close(result.as_numpy("logits"), grpc_api.infer(array).as_numpy("logits"))


def test_an_error_in_the_middle_does_not_end_the_stream(grpc_api, server):
    requests = [
        request_of(grpc_api, tensors(1), 0),
        request_of(grpc_api, tensors(1), 1, model="nobody"),
        request_of(grpc_api, tensors(1), 2),
        request_of(grpc_api, np.zeros((1, 3, 33, 32), np.float32), 3),
        request_of(grpc_api, encoded([b"not an image"]), 4),
        request_of(grpc_api, tensors(1), 5, timeout=1),
        request_of(grpc_api, tensors(1), 6),
    ]
    answers = answers_of(server, requests)
    assert [error is None for _, error in answers] == [True, False, True, False, False, False, True]
    assert [result.get_response().id for result, _ in answers if result is not None] == ["0", "2", "6"]
    assert "nobody" in answers[1][1].message()
    assert "input" in answers[3][1].message()


def test_a_stream_names_versions_and_classifies(grpc_api, server):
    outputs = grpc_api.outputs("logits", class_count=1)
    requests = [
        request_of(grpc_api, tensors(1), number, model="versioned", model_version=version, outputs=outputs)
        for number, version in enumerate(["1", "2", ""])
    ]
    results = [result for result, _ in answers_of(server, requests)]
    assert [result.get_response().model_version for result in results] == ["1", "2", "2"]
    assert [result.as_numpy("logits").shape for result in results] == [(1, 1)] * 3


def test_every_request_has_one_answer_when_empty_final_answers_are_asked_for(grpc_api, server):
    requests = [request_of(grpc_api, tensors(1), n, enable_empty_final_response=True) for n in range(3)]
    answers = answers_of(server, requests)
    assert [result.get_response().id for result, _ in answers] == ["0", "1", "2"]
    assert {result.as_numpy("logits").shape for result, _ in answers} == {(1, CLASSES)}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_stream_may_be_compressed(grpc_api, server, algorithm):
    requests = [request_of(grpc_api, tensors(2), number) for number in range(2)]
    answers = answers_of(server, requests, compression_algorithm=algorithm)
    assert [result.as_numpy("logits").shape for result, _ in answers] == [(2, CLASSES)] * 2


def test_a_stream_without_requests_ends(server):
    assert answers_of(server, []) == []


def test_the_asyncio_client_streams(grpc_api, server):
    async def requests():
        for number, model in enumerate(["flat", "nobody", "versioned"]):
            yield request_of(grpc_api, tensors(1), number, model=model)

    async def run():
        async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
            return [answer async for answer in client.stream_infer(requests())]

    answers = asyncio.run(run())
    assert [error is None for _, error in answers] == [True, False, True]
    assert [result.get_response().model_name for result, _ in answers if result is not None] == ["flat", "versioned"]
