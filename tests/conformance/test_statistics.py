"""The statistics extension, with the HTTP and with the gRPC client. Only these tests use the model `counted`."""

import time

import pytest

from support import PATIENCE, tensors


def counters(api):
    """The counters of `counted`, and how many batches of each size it has run."""
    (row,) = api.statistics("counted")
    assert (row["name"], row["version"]) == ("counted", "1")
    counts = {name: int(row.get(name, 0)) for name in ("last_inference", "inference_count", "execution_count")}
    for name, duration in row.get("inference_stats", {}).items():
        counts[name], counts[f"{name}_ns"] = int(duration.get("count", 0)), int(duration.get("ns", 0))
    batches = {int(batch["batch_size"]): int(batch["compute_infer"]["count"]) for batch in row.get("batch_stats", [])}
    return counts, batches


def counters_once(api, expected):
    """The counters when the images add up: an answer may be a moment ahead of its statistics."""
    deadline = time.monotonic() + PATIENCE
    counts, batches = counters(api)
    while counts["inference_count"] != expected and time.monotonic() < deadline:
        time.sleep(0.02)
        counts, batches = counters(api)
    return counts, batches


def test_the_counts_go_up_by_what_was_sent(api):
    before, batches_before = counters(api)
    started = int(time.time() * 1000)
    with api.refuses("invalid", "datatype"):
        api.infer(tensors(1).astype(int), model="counted")
    for images in (1, 4, 2):
        api.infer(tensors(images), model="counted")
    after, batches = counters_once(api, before["inference_count"] + 7)

    assert after["inference_count"] == before["inference_count"] + 7
    assert after["success"] == before["success"] + 3
    ran = {size: count - batches_before.get(size, 0) for size, count in batches.items()}
    assert all(count >= 0 for count in ran.values())
    assert sum(size * count for size, count in ran.items()) == 7
    assert sum(ran.values()) == after["execution_count"] - before["execution_count"]
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[name] > before.get(name, 0)
    for name in ("success_ns", "compute_infer_ns"):
        assert after[name] > before.get(name, 0)
    assert started <= after["last_inference"] <= time.time() * 1000


def test_http_and_grpc_give_the_same_numbers(http_api, grpc_api):
    before, _ = counters(http_api)
    http_api.infer(tensors(1), model="counted")
    grpc_api.infer(tensors(2), model="counted")
    left = counters_once(http_api, before["inference_count"] + 3)
    right = counters(grpc_api)
    assert left[1] == right[1]
    for name in ("inference_count", "execution_count", "success"):
        assert left[0][name] == right[0][name]


def versions(rows):
    return sorted((row["name"], row["version"]) for row in rows)


def test_statistics_of_all_models(api):
    rows = versions(api.statistics())
    assert {("flat", "1"), ("versioned", "1"), ("versioned", "2"), ("counted", "1")} <= set(rows)


def test_statistics_of_all_versions_of_a_model(api):
    assert versions(api.statistics("versioned")) == [("versioned", "1"), ("versioned", "2")]


@pytest.mark.parametrize("version", ["1", "2"])
def test_statistics_of_one_version(api, version):
    assert versions(api.statistics("versioned", version)) == [("versioned", version)]


def test_a_version_counts_only_what_it_answered(api):
    def images(version):
        (row,) = api.statistics("versioned", version)
        return int(row.get("inference_count", 0))

    one, two = images("1"), images("2")
    api.infer(tensors(3), model="versioned", model_version="1")
    deadline = time.monotonic() + PATIENCE
    while images("1") == one and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (images("1"), images("2")) == (one + 3, two)
