"""Inference, with the HTTP and with the gRPC client."""

import json
import urllib.request

import numpy as np
import pytest

from support import CLASSES, IMAGES, LABELS, MAX_IMAGES, classes, close, encoded, same_bits, tensors


def test_fp32_tensors_are_answered_with_logits_and_their_softmax(api):
    result = api.infer(tensors(3))
    logits, probabilities = result.as_numpy("logits"), result.as_numpy("probabilities")
    assert logits.shape == probabilities.shape == (3, CLASSES)
    assert logits.dtype == probabilities.dtype == np.float32
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-7)


def test_both_outputs_come_in_order_when_none_is_requested(api):
    response = api.response(api.infer(tensors(1)))
    outputs = [(o["name"], o["datatype"], [int(d) for d in o["shape"]]) for o in response["outputs"]]
    assert outputs == [("logits", "FP32", [1, CLASSES]), ("probabilities", "FP32", [1, CLASSES])]


@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_only_the_requested_output_comes(api, name):
    result = api.infer(tensors(1), outputs=api.outputs(name))
    assert [output["name"] for output in api.response(result)["outputs"]] == [name]
    assert same_bits(result.as_numpy(name), api.infer(tensors(1)).as_numpy(name))


def test_every_tensor_of_a_request_gets_its_own_answer(api):
    together = api.infer(tensors(5)).as_numpy("logits")
    alone = np.concatenate([api.infer(tensors(5)[i : i + 1]).as_numpy("logits") for i in range(5)])
    assert close(together, alone)
    assert not close(together, together[::-1])


def test_a_request_may_have_as_many_images_as_the_limit_says(api):
    assert api.infer(tensors(MAX_IMAGES)).as_numpy("logits").shape == (MAX_IMAGES, CLASSES)


def test_encoded_images_of_every_format_are_taken_as_bytes(api):
    together = api.infer(encoded(IMAGES)).as_numpy("probabilities")
    alone = np.concatenate([api.infer(encoded([image])).as_numpy("probabilities") for image in IMAGES])
    assert close(together, alone)
    # a cat in PNG, as in the README
    assert LABELS[together[0].argmax()] == "cat"


def test_bytes_may_have_a_second_dimension_of_one(api):
    flat = api.infer(encoded(IMAGES[:2])).as_numpy("logits")
    assert close(api.infer(encoded(IMAGES[:2]).reshape(2, 1)).as_numpy("logits"), flat)


@pytest.mark.parametrize("image", range(len(IMAGES)))
def test_bytes_are_answered_as_classify_answers_the_same_image(api, server, image):
    request = urllib.request.Request(f"http://{server.http}/classify?model=flat&top_k=5", IMAGES[image])
    with urllib.request.urlopen(request) as answer:
        predictions = json.load(answer)["results"][0]["predictions"]
    expected = [(np.float32(p["probability"]), p["class"], p["label"]) for p in predictions]
    outputs = api.outputs("probabilities", class_count=5)
    result = api.infer(encoded([IMAGES[image]]), outputs=outputs)
    assert classes(result.as_numpy("probabilities")[0]) == expected


@pytest.mark.parametrize("count", [1, 3, CLASSES])
def test_classification_gives_the_best_classes_of_both_outputs(api, count):
    raw = api.infer(tensors(1))
    result = api.infer(tensors(1), outputs=api.outputs("logits", "probabilities", class_count=count))
    for name in ("logits", "probabilities"):
        scores = raw.as_numpy(name)[0]
        best = np.argsort(-scores, kind="stable")[:count]
        assert result.as_numpy(name).shape == (1, count)
        assert classes(result.as_numpy(name)[0]) == [(scores[i], i, LABELS[i]) for i in best]


def test_classification_is_of_datatype_bytes_for_every_image(api):
    result = api.infer(tensors(4), outputs=api.outputs("logits", class_count=2))
    (output,) = api.response(result)["outputs"]
    assert output["datatype"] == "BYTES"
    assert [int(d) for d in output["shape"]] == [4, 2]
    assert result.as_numpy("logits").shape == (4, 2)


def test_one_output_may_be_classified_and_the_other_not(api):
    outputs = api.outputs("logits") + api.outputs("probabilities", class_count=2)
    result = api.infer(tensors(1), outputs=outputs)
    logits = result.as_numpy("logits")
    assert logits.dtype == np.float32
    assert classes(result.as_numpy("probabilities")[0])[0][1] == logits[0].argmax()


def test_http_and_grpc_agree_to_the_last_bit(http_api, grpc_api):
    for array in (tensors(1), encoded([IMAGES[0]])):
        left, right = http_api.infer(array), grpc_api.infer(array)
        for name in ("logits", "probabilities"):
            assert same_bits(left.as_numpy(name), right.as_numpy(name))


def test_the_id_of_a_request_is_echoed(api):
    response = api.response(api.infer(tensors(1), request_id="number 42"))
    assert response["id"] == "number 42"


def test_the_answer_names_the_model_and_its_version(api):
    response = api.response(api.infer(tensors(1)))
    assert (response["model_name"], response["model_version"]) == ("flat", "1")


def answers_of_a_version(api, version):
    settings = {"model": "versioned", "model_version": version, "outputs": api.outputs("logits", class_count=1)}
    result = api.infer(tensors(1), **settings)
    ((_, _, label),) = classes(result.as_numpy("logits")[0])
    return api.response(result)["model_version"], label


def test_the_newest_version_answers_by_default(api):
    version, label = answers_of_a_version(api, "")
    assert version == "2"
    assert label.isupper()


@pytest.mark.parametrize("version", ["1", "2"])
def test_each_version_answers_by_its_name(api, version):
    answered, label = answers_of_a_version(api, version)
    assert answered == version
    assert label.isupper() == (version == "2")


def test_a_timeout_of_a_microsecond_is_a_missed_deadline(api):
    with api.refuses("deadline", "."):
        api.infer(tensors(1), timeout=1)


def test_a_generous_timeout_changes_nothing(api):
    with_timeout = api.infer(tensors(1), timeout=60_000_000).as_numpy("logits")
    assert same_bits(with_timeout, api.infer(tensors(1)).as_numpy("logits"))


@pytest.mark.parametrize("priority", [1, 5, 10])
def test_every_priority_is_served(api, priority):
    with_priority = api.infer(tensors(1), priority=priority).as_numpy("logits")
    assert same_bits(with_priority, api.infer(tensors(1)).as_numpy("logits"))


def test_parameters_that_mean_nothing_here_are_ignored(api):
    parameters = {"comment": "hello", "number": 3, "flag": True}
    assert api.infer(tensors(1), parameters=parameters).as_numpy("logits").shape == (1, CLASSES)
