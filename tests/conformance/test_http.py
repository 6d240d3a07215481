"""What only HTTP has: JSON and binary tensors, compression, and bodies that tritonclient does not make."""

import base64
import json

import numpy as np
import pytest
from tritonclient.http import InferResult

from support import CLASSES, IMAGES, MAX_IMAGES, classes, close, encoded, post, same_bits, tensors

INFER = "/v2/models/flat/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"


def read(answer, body):
    """A raw answer as tritonclient reads it."""
    assert answer.status == 200, body
    length, encoding = answer.headers[HEADER_LENGTH], answer.headers["Content-Encoding"]
    return InferResult.from_response_body(body, header_length=length, content_encoding=encoding)


def json_input(api, array, name="input", datatype="FP32"):
    """An input whose data stand in the JSON."""
    tensor = api.module.InferInput(name, list(array.shape), datatype)
    return tensor.set_data_from_numpy(array, binary_data=False)


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_json_and_binary_tensors_are_the_same_to_the_last_bit(http_api, binary_input, binary_output):
    tensor = http_api.input(tensors(1)) if binary_input else json_input(http_api, tensors(1))
    outputs = http_api.outputs("logits", "probabilities", binary_data=binary_output)
    result = http_api.client.infer("flat", [tensor], outputs=outputs)
    expected = http_api.infer(tensors(1))
    for name in ("logits", "probabilities"):
        assert ("data" in result.get_output(name)) == (not binary_output)
        assert same_bits(result.as_numpy(name), expected.as_numpy(name))


def test_one_output_may_be_binary_and_the_other_json(http_api):
    outputs = http_api.outputs("logits", binary_data=False) + http_api.outputs("probabilities", binary_data=True)
    result = http_api.infer(tensors(3), outputs=outputs)
    assert len(result.get_output("logits")["data"]) in (3, 3 * CLASSES)
    assert result.get_output("probabilities")["parameters"]["binary_data_size"] == 4 * 3 * CLASSES
    logits, probabilities = result.as_numpy("logits"), result.as_numpy("probabilities")
    np.testing.assert_array_equal(logits.argmax(axis=1), probabilities.argmax(axis=1))


def test_classification_as_json(http_api):
    outputs = http_api.outputs("probabilities", binary_data=False, class_count=3)
    result = http_api.infer(tensors(2), outputs=outputs)
    as_json = result.as_numpy("probabilities")
    assert as_json.shape == (2, 3)
    best = http_api.infer(tensors(2)).as_numpy("probabilities").argmax(axis=1)
    assert [classes(row)[0][1] for row in as_json] == list(best)


def test_encoded_images_in_json_are_base64(http_api):
    text = encoded([base64.b64encode(image).decode() for image in IMAGES[:2]])
    result = http_api.client.infer("flat", [json_input(http_api, text, datatype="BYTES")])
    assert close(result.as_numpy("logits"), http_api.infer(encoded(IMAGES[:2])).as_numpy("logits"))


def test_many_requests_at_once_get_their_own_answers(http_api):
    arrays = [tensors(1, seed=seed) for seed in range(64)]
    pending = [http_api.client.async_infer("flat", [http_api.input(array)]) for array in arrays]
    for array, request in zip(arrays, pending, strict=True):
        assert close(request.get_result().as_numpy("logits"), http_api.infer(array).as_numpy("logits"))


def test_an_error_of_an_asynchronous_request_is_its_result(http_api):
    request = http_api.client.async_infer("nobody", [http_api.input(tensors(1))])
    with http_api.refuses("not_found", "nobody"):
        request.get_result()


@pytest.mark.parametrize("request_encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_encoding", [None, "gzip", "deflate"])
def test_requests_and_answers_may_be_compressed(http_api, request_encoding, answer_encoding):
    array = tensors(MAX_IMAGES)
    result = http_api.infer(
        array, request_compression_algorithm=request_encoding, response_compression_algorithm=answer_encoding
    )
    assert close(result.as_numpy("logits"), http_api.infer(array).as_numpy("logits"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_request_may_be_json_alone(http_api, encoding):
    result = http_api.client.infer(
        "flat", [json_input(http_api, tensors(1))], request_compression_algorithm=encoding
    )
    assert same_bits(result.as_numpy("logits"), http_api.infer(tensors(1)).as_numpy("logits"))


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("identity", None), ("br", None), ("gzip;q=0", None)],
)
def test_a_large_answer_is_compressed_as_asked(http_api, server, accepted, expected):
    request, length = http_api.client.generate_request_body([http_api.input(tensors(MAX_IMAGES))])
    headers = {HEADER_LENGTH: str(length), "Accept-Encoding": accepted}
    answer, body = post(server.http, INFER, request, headers)
    assert answer.headers["Content-Encoding"] == expected
    assert read(answer, body).as_numpy("logits").shape == (MAX_IMAGES, CLASSES)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_error_can_be_read_by_a_client_that_takes_compressed_answers(http_api, encoding):
    """tritonclient does not decompress errors; the sentence is long enough to be worth compressing."""
    tensor = http_api.input(tensors(1), name="pictures" * 300)
    with http_api.refuses("invalid", "pictures"):
        http_api.client.infer("flat", [tensor], response_compression_algorithm=encoding)


def test_a_header_length_of_zero_makes_the_body_one_image(http_api, server):
    answer, body = post(server.http, INFER, IMAGES[0], {HEADER_LENGTH: "0"})
    result = read(answer, body)
    expected = http_api.infer(encoded(IMAGES[:1]))
    for name in ("logits", "probabilities"):
        assert result.get_output(name)["parameters"]["binary_data_size"] == 4 * CLASSES
        assert same_bits(result.as_numpy(name), expected.as_numpy(name))


def test_a_body_that_is_one_image_for_a_version(server):
    path = "/v2/models/versioned/versions/1/infer"
    result = read(*post(server.http, path, IMAGES[1], {HEADER_LENGTH: "0"}))
    assert result.get_response()["model_version"] == "1"


def test_json_needs_no_content_type(http_api, server):
    images = [base64.b64encode(image).decode() for image in IMAGES[:1]]
    request = {"id": "7", "inputs": [{"name": "input", "shape": [1], "datatype": "BYTES", "data": images}]}
    answer, body = post(server.http, INFER, json.dumps(request).encode())
    assert answer.headers[HEADER_LENGTH] is None
    result = read(answer, body)
    assert result.get_response()["id"] == "7"
    assert same_bits(result.as_numpy("logits"), http_api.infer(encoded(IMAGES[:1])).as_numpy("logits"))


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain"])
def test_any_content_type_is_taken(http_api, server, content_type):
    request, length = http_api.client.generate_request_body([http_api.input(tensors(1))])
    headers = {HEADER_LENGTH: str(length), "Content-Type": content_type}
    assert read(*post(server.http, INFER, request, headers)).as_numpy("logits").shape == (1, CLASSES)


def test_nested_arrays_in_json(http_api, server):
    request = {
        "inputs": [{"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": tensors(1).tolist()}],
        "outputs": [{"name": "logits"}],
    }
    result = read(*post(server.http, INFER, json.dumps(request).encode()))
    assert same_bits(result.as_numpy("logits"), http_api.infer(tensors(1)).as_numpy("logits"))


def test_a_body_in_chunks(http_api, server):
    request, length = http_api.client.generate_request_body([http_api.input(tensors(1))])
    chunks = iter([request[:100], request[100:5000], request[5000:]])
    assert read(*post(server.http, INFER, chunks, {HEADER_LENGTH: str(length)})).as_numpy("logits") is not None


@pytest.mark.parametrize("length", ["-1", "many", "1000000"])
def test_a_header_length_that_cannot_be_is_refused(http_api, server, length):
    request, _ = http_api.client.generate_request_body([http_api.input(tensors(1))])
    answer, body = post(server.http, INFER, request, {HEADER_LENGTH: length})
    assert answer.status == 400
    error = json.loads(body)
    assert HEADER_LENGTH.lower() in error["error"].lower()
    assert error["code"]


def test_the_index_may_be_asked_for_ready_models_only(server):
    answer, body = post(server.http, "/v2/repository/index", b'{"ready": true}')
    assert answer.status == 200
    rows = json.loads(body)
    assert {row["state"] for row in rows} == {"READY"}
    assert {"flat", "versioned", "counted"} <= {row["name"] for row in rows}


def test_load_and_the_index_need_no_body(server):
    assert post(server.http, "/v2/repository/index", None)[0].status == 200
    assert post(server.http, "/v2/repository/models/spare/load", None)[0].status == 200


@pytest.mark.parametrize("method", ["get_system_shared_memory_status", "get_trace_settings", "get_log_settings"])
def test_what_is_not_announced_is_not_found(http_api, method):
    with http_api.refuses("not_found", "."):
        getattr(http_api.client, method)()
