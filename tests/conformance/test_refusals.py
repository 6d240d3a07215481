"""What is refused, and that the sentence names the field; with the HTTP and with the gRPC client."""

import numpy as np
import pytest

from support import CLASSES, IMAGES, MAX_IMAGES, encoded, tensors

COUNT = "shape|data|raw_input_contents|elements|bytes|image"


@pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 3, 224, 224), (1, 1, 32, 32), (3, 32, 32), (1, 3072)])
def test_tensors_of_a_wrong_shape(api, shape):
    with api.refuses("invalid", r"input(.|\n)*32"):
        api.infer(np.zeros(shape, np.float32))


def test_a_tensor_without_an_image(api):
    with api.refuses("invalid", "shape|image"):
        api.infer(tensors(0))


@pytest.mark.parametrize("shape", [[2, 3, 32, 32], [-1, 3, 32, 32], [2**60, 3, 32, 32]])
def test_a_shape_that_is_not_that_of_the_data(api, shape):
    with api.refuses("invalid", COUNT):
        api.client.infer("flat", [api.input(tensors(1), shape=shape)])


@pytest.mark.parametrize("shape", [[2], [0], [1, 2]])
def test_a_shape_that_is_not_that_of_the_encoded_images(api, shape):
    with api.refuses("invalid", COUNT):
        api.client.infer("flat", [api.input(encoded(IMAGES[:1]), shape=shape)])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_])
def test_another_datatype(api, dtype):
    with api.refuses("invalid", "datatype"):
        api.infer(tensors(1).astype(dtype))


def test_an_input_of_another_name(api):
    with api.refuses("invalid", "pictures"):
        api.client.infer("flat", [api.input(tensors(1), name="pictures")])


def test_no_input(api):
    with api.refuses("invalid", "input"):
        api.client.infer("flat", [])


def test_the_same_input_twice(api):
    with api.refuses("invalid", "input"):
        api.client.infer("flat", [api.input(tensors(1)), api.input(tensors(1))])


def test_an_output_of_another_name(api):
    with api.refuses("invalid", "scores"):
        api.infer(tensors(1), outputs=api.outputs("logits", "scores"))


@pytest.mark.parametrize("count", [CLASSES + 1, -1])
def test_a_classification_of_more_classes_than_there_are(api, count):
    with api.refuses("invalid", "classification"):
        api.infer(tensors(1), outputs=api.outputs("logits", class_count=count))


def test_more_images_than_the_limit(api):
    with api.refuses("invalid", str(MAX_IMAGES)):
        api.infer(tensors(MAX_IMAGES + 1))


@pytest.mark.parametrize("image", [b"not an image", IMAGES[0][:100]])
def test_bytes_that_are_no_image(api, image):
    with api.refuses("bad_image", "."):
        api.infer(encoded([IMAGES[0], image]))


def test_sequences(api):
    with api.refuses("invalid", "sequence_"):
        api.infer(tensors(1), sequence_id=7, sequence_start=True)


def test_an_input_in_shared_memory(api):
    tensor = api.module.InferInput("input", [1, 3, 32, 32], "FP32")
    tensor.set_shared_memory("region", 4 * 3 * 32 * 32)
    with api.refuses("invalid", "shared_memory_"):
        api.client.infer("flat", [tensor])


def test_an_output_in_shared_memory(api):
    (output,) = api.outputs("logits")
    output.set_shared_memory("region", 4 * CLASSES)
    with api.refuses("invalid", "shared_memory_"):
        api.infer(tensors(1), outputs=[output])


def test_inference_with_an_unknown_model(api):
    with api.refuses("not_found", "nobody"):
        api.infer(tensors(1), model="nobody")


def test_inference_with_an_unknown_version(api):
    with api.refuses("not_found", "77"):
        api.infer(tensors(1), model="versioned", model_version="77")


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("nobody", "1"), ("versioned", "77")])
def test_questions_about_what_is_unknown(api, method, model, version):
    with api.refuses("not_found", "nobody|77"):
        getattr(api.client, method)(model, version)


def test_the_server_goes_on_after_a_refusal(api):
    with api.refuses("invalid", "datatype"):
        api.infer(tensors(1).astype(np.float64))
    assert api.infer(tensors(1)).as_numpy("logits").shape == (1, CLASSES)
