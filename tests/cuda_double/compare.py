"""compare.py DUMP REFERENCE BOUND: the relative L2 distance of each row of logits of two dumps of `resnetd bench --dump`."""

import array
import json
import math
import struct
import sys


def logits(path):
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])["logits"]
    begin, end = (8 + length + offset for offset in header["data_offsets"])
    values = array.array("f", data[begin:end])
    rows, columns = header["shape"]
    return [values[row * columns : (row + 1) * columns] for row in range(rows)]


def distance(row, reference):
    """NaN where any value is."""
    difference = sum((x - y) ** 2 for x, y in zip(row, reference, strict=True))
    return math.sqrt(difference / sum(y * y for y in reference))


if __name__ == "__main__":
    rows, references = logits(sys.argv[1]), logits(sys.argv[2])
    distances = [distance(row, reference) for row, reference in zip(rows, references, strict=True)]
    print(*(f"{distance:.1e}" for distance in distances))
    sys.exit(not all(distance <= float(sys.argv[3]) for distance in distances))
