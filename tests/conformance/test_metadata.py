"""What the server says of itself and its models, with the HTTP and with the gRPC client."""

import tomllib

import pytest

from support import CLASSES, MAX_IMAGES, REPOSITORY

EXTENSIONS = {
    "classification",
    "binary_tensor_data",
    "statistics",
    "model_configuration",
    "model_repository",
    "schedule_policy",
}


def test_the_server_is_live_and_ready(api):
    assert api.client.is_server_live() is True
    assert api.client.is_server_ready() is True


def test_the_server_names_itself_and_its_version(api):
    metadata = api.json("get_server_metadata")
    cargo = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())
    assert (metadata["name"], metadata["version"]) == ("resnetd", cargo["package"]["version"])


def test_the_server_announces_exactly_the_extensions_that_work(api):
    extensions = api.json("get_server_metadata")["extensions"]
    assert len(extensions) == len(set(extensions))
    assert set(extensions) == EXTENSIONS


@pytest.mark.parametrize(("model", "version"), [("flat", ""), ("flat", "1"), ("versioned", "1"), ("versioned", "2")])
def test_a_model_is_ready(api, model, version):
    assert api.client.is_model_ready(model, version) is True


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("nobody", "1"), ("versioned", "77")])
def test_an_unknown_model_is_not_ready_and_that_is_no_error(api, model, version):
    assert api.client.is_model_ready(model, version) is False


@pytest.mark.parametrize(
    ("model", "version", "versions"),
    [("flat", "", ["1"]), ("flat", "1", ["1"]), ("versioned", "", ["1", "2"])],
)
def test_metadata_has_versions_and_tensors(api, model, version, versions):
    metadata = api.json("get_model_metadata", model, version)
    assert (metadata["name"], metadata["platform"]) == (model, "resnetd")
    assert metadata["versions"] == versions
    assert tensors_of(metadata["inputs"]) == [("input", "FP32", [-1, 3, 32, 32])]
    expected = [("logits", "FP32", [-1, CLASSES]), ("probabilities", "FP32", [-1, CLASSES])]
    assert tensors_of(metadata["outputs"]) == expected


@pytest.mark.parametrize("version", ["1", "2"])
def test_metadata_of_a_version(api, version):
    metadata = api.json("get_model_metadata", "versioned", version)
    assert version in metadata["versions"]
    assert tensors_of(metadata["inputs"]) == [("input", "FP32", [-1, 3, 32, 32])]


def tensors_of(rows):
    return [(row["name"], row["datatype"], [int(d) for d in row["shape"]]) for row in rows]


def config_of(api, *model):
    config = api.json("get_model_config", *model)
    return config if api.name == "http" else config["config"]


@pytest.mark.parametrize(("model", "version"), [("flat", ""), ("flat", "1"), ("versioned", ""), ("versioned", "1")])
def test_a_config_says_how_a_model_is_served(api, model, version):
    config = config_of(api, model, version)
    assert (config["name"], config["platform"], config["backend"]) == (model, "resnetd", "resnetd")
    assert config["max_batch_size"] == MAX_IMAGES
    assert "all" in config["version_policy"]
    (group,) = config["instance_group"]
    assert group["kind"] in ("KIND_CPU", "KIND_GPU")
    assert group["count"] == 1


def test_a_config_has_the_tensors_without_their_first_dimension(api):
    config = config_of(api, "flat")
    (input,) = config["input"]
    assert (input["name"], input["data_type"], input["format"]) == ("input", "TYPE_FP32", "FORMAT_NCHW")
    assert [int(d) for d in input["dims"]] == [3, 32, 32]
    for output, name in zip(config["output"], ["logits", "probabilities"], strict=True):
        assert (output["name"], output["data_type"]) == (name, "TYPE_FP32")
        assert [int(d) for d in output["dims"]] == [CLASSES]
        assert output["label_filename"] == "labels.txt"


def test_a_config_has_the_batching_and_the_architecture(api):
    config = config_of(api, "flat")
    batching = config["dynamic_batching"]
    assert (int(batching["priority_levels"]), int(batching["default_priority_level"])) == (10, 5)
    assert int(batching["max_queue_delay_microseconds"]) >= 0
    assert [size >= 1 for size in batching["preferred_batch_size"]] == [True]
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert (parameters["architecture"], parameters["depth"]) == ("resnet20", "20")


def test_numbers_are_numbers_over_http(http_api):
    """Where protobuf's own JSON has 64-bit integers as text: Triton's tools read numbers."""
    config = http_api.client.get_model_config("flat")
    assert config["input"][0]["dims"] == [3, 32, 32]
    assert config["output"][0]["dims"] == [CLASSES]
    assert isinstance(config["dynamic_batching"]["max_queue_delay_microseconds"], int)
    assert http_api.client.get_model_metadata("flat")["inputs"][0]["shape"] == [-1, 3, 32, 32]
    (row,) = http_api.client.get_inference_statistics("flat")["model_stats"]
    assert isinstance(row["inference_count"], int)


def test_the_index_has_a_row_for_every_version(api):
    rows = {(row["name"], row["version"]): row["state"] for row in api.index()}
    for version in [("flat", "1"), ("versioned", "1"), ("versioned", "2"), ("counted", "1")]:
        assert rows[version] == "READY"
    assert {name for name, _ in rows} == {"flat", "versioned", "counted", "spare"}
