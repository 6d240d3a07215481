"""client.py PORT REFERENCE SECONDS BOUND: eight clients ask a server for classes, and for logits of images and of tensors,
in batches of one to seven; every answer is compared with what the server at REFERENCE says of each image alone."""

import base64
import http.client
import json
import mimetypes
import pathlib
import random
import struct
import sys
import threading
import time

from compare import distance

MODEL = "resnet20-cifar10"
CLIENTS = 8
DATA = pathlib.Path(__file__).parent.parent / "data" / "preprocess"


def small_images(count):
    files = [path for path in DATA.iterdir() if path.suffix in (".jpg", ".png") and ".expected" not in path.name]
    return sorted(files, key=lambda path: (path.stat().st_size, path.name))[:count]


PATHS = small_images(16)
IMAGES = [path.read_bytes() for path in PATHS]
GENERATOR = random.Random(5)
TENSORS = [struct.pack("<3072f", *(GENERATOR.gauss(0, 1) for _ in range(3 * 32 * 32))) for _ in range(12)]


def post(port, path, body, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer[:300]}")
    return json.loads(answer)


def classify(port, indices):
    if len(indices) == 1:
        kind = mimetypes.guess_type(PATHS[indices[0]])[0]
        answer = post(port, "/classify?top_k=10", IMAGES[indices[0]], {"content-type": kind})
    else:
        images = [{"b64": base64.b64encode(IMAGES[index]).decode()} for index in indices]
        body = json.dumps({"images": images, "top_k": 10})
        answer = post(port, "/classify", body, {"content-type": "application/json"})
    rows = []
    for result in answer["results"]:
        predictions = sorted(result["predictions"], key=lambda prediction: prediction["label"])
        rows.append([prediction["probability"] for prediction in predictions])
    return rows


def infer(port, raw, datatype, shape):
    given = {"name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [given], "outputs": [{"name": "logits"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), "content-type": "application/octet-stream"}
    values = post(port, f"/v2/models/{MODEL}/infer", header + raw, headers)["outputs"][0]["data"]
    classes = len(values) // shape[0]
    return [values[row * classes : (row + 1) * classes] for row in range(shape[0])]


def infer_images(port, indices):
    raw = b"".join(struct.pack("<I", len(IMAGES[index])) + IMAGES[index] for index in indices)
    return infer(port, raw, "BYTES", [len(indices)])


def infer_tensors(port, indices):
    return infer(port, b"".join(TENSORS[index] for index in indices), "FP32", [len(indices), 3, 32, 32])


ROADS = {classify: len(IMAGES), infer_images: len(IMAGES), infer_tensors: len(TENSORS)}


class Client(threading.Thread):
    def __init__(self, seed, port, until, expected):
        super().__init__()
        self.random, self.port, self.until, self.expected = random.Random(seed), port, until, expected
        self.distances, self.failures = [], []

    def run(self):
        while time.monotonic() < self.until:
            road = self.random.choice(list(ROADS))
            count = self.random.choice([1, 1, 1, 2, 3, 5, 7])
            indices = [self.random.randrange(ROADS[road]) for _ in range(count)]
            try:
                rows = road(self.port, indices)
                for index, row in zip(indices, rows, strict=True):
                    self.distances.append(distance(row, self.expected[road][index]))
            except Exception as error:  # whatever it is, the check fails and says it
                self.failures.append(repr(error))
                time.sleep(0.2)


def main():
    port, reference, seconds, bound = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    expected = {road: [road(reference, [index])[0] for index in range(count)] for road, count in ROADS.items()}
    until = time.monotonic() + seconds
    clients = [Client(seed, port, until, expected) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    distances = [distance for client in clients for distance in client.distances]
    failures = [failure for client in clients for failure in client.failures]
    print(f"{len(distances)} images, {len(failures)} failures, worst {max(distances, default=0):.1e}", *failures[:3])
    sys.exit(not distances or bool(failures) or not all(distance <= bound for distance in distances))


if __name__ == "__main__":
    main()
