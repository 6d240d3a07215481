"""What only gRPC has: tensors as typed contents, callbacks, compression of messages."""

from concurrent.futures import Future

import grpc
import pytest
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from support import CLASSES, IMAGES, MAX_IMAGES, PATIENCE, close, encoded, same_bits, tensors


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(datatype, shape, **contents):
    request = service_pb2.ModelInferRequest(model_name="flat")
    tensor = request.inputs.add(name="input", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return request


def test_fp32_contents_are_the_same_as_raw_contents_to_the_last_bit(grpc_api, stub):
    array = tensors(1)
    response = stub.ModelInfer(request_of("FP32", array.shape, fp32_contents=array.flatten().tolist()))
    for name in ("logits", "probabilities"):
        assert same_bits(InferResult(response).as_numpy(name), grpc_api.infer(array).as_numpy(name))


def test_bytes_contents_are_encoded_images(grpc_api, stub):
    response = stub.ModelInfer(request_of("BYTES", [2], bytes_contents=IMAGES[:2]))
    assert close(InferResult(response).as_numpy("logits"), grpc_api.infer(encoded(IMAGES[:2])).as_numpy("logits"))


def test_answers_are_raw_whatever_the_request_was(stub):
    response = stub.ModelInfer(request_of("FP32", [1, 3, 32, 32], fp32_contents=[0.0] * 3072))
    assert [len(raw) for raw in response.raw_output_contents] == [4 * CLASSES, 4 * CLASSES]
    assert [output.HasField("contents") for output in response.outputs] == [False, False]


def refusal(stub, request):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details()


def test_raw_and_typed_contents_together_are_refused(stub):
    request = request_of("FP32", [1, 3, 32, 32], fp32_contents=[0.0] * 3072)
    request.raw_input_contents.append(bytes(4 * 3072))
    assert "contents" in refusal(stub, request)


def test_contents_of_another_type_are_refused(stub):
    assert "contents" in refusal(stub, request_of("FP32", [1, 3, 32, 32], fp64_contents=[0.0] * 3072))


def test_bytes_that_end_early_are_refused(stub):
    request = request_of("BYTES", [1])
    request.raw_input_contents.append(b"\xff\xff\xff\x7fshort")
    assert "element 0 of the input" in refusal(stub, request)


def test_many_requests_at_once_get_their_own_answers(grpc_api):
    arrays = [tensors(1, seed=seed) for seed in range(64)]
    pending = []
    for array in arrays:
        answer = Future()
        grpc_api.client.async_infer(
            "flat",
            [grpc_api.input(array)],
            lambda result, error, answer=answer: answer.set_result((result, error)),
        )
        pending.append(answer)
    for array, answer in zip(arrays, pending, strict=True):
        result, error = answer.result(PATIENCE)
        assert error is None
        assert close(result.as_numpy("logits"), grpc_api.infer(array).as_numpy("logits"))


def test_an_error_of_an_asynchronous_request_goes_to_its_callback(grpc_api):
    answer = Future()
    grpc_api.client.async_infer(
        "nobody", [grpc_api.input(tensors(1))], lambda result, error: answer.set_result((result, error))
    )
    result, error = answer.result(PATIENCE)
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"
    assert "nobody" in error.message()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(grpc_api, algorithm):
    array = tensors(MAX_IMAGES)
    result = grpc_api.infer(array, compression_algorithm=algorithm)
    assert close(result.as_numpy("logits"), grpc_api.infer(array).as_numpy("logits"))


def test_a_deadline_of_the_client_that_is_far_away_changes_nothing(grpc_api):
    assert grpc_api.infer(tensors(1), client_timeout=PATIENCE).as_numpy("logits").shape == (1, CLASSES)


def test_the_index_may_be_asked_for_ready_models_only(stub):
    index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    assert {row.state for row in index.models} == {"READY"}
    assert {"flat", "versioned", "counted"} <= {row.name for row in index.models}


@pytest.mark.parametrize(
    "method",
    ["get_system_shared_memory_status", "get_cuda_shared_memory_status", "get_trace_settings", "get_log_settings"],
)
def test_what_is_not_announced_is_unimplemented(grpc_api, method):
    with pytest.raises(InferenceServerException) as caught:
        getattr(grpc_api.client, method)()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
