"""Compares both formats of `stillhouse ledger export`: check_export.py LABELS.parquet LABELS.safetensors.

Reads them with pyarrow and the Python package safetensors, checks their columns and metadata, and that
they hold the same labels under the same keys, bit for bit.
"""

import sys

import numpy
import pyarrow.parquet
from safetensors import safe_open

COLUMNS = [
    "key", "kind", "first", "second", "lambda", "arm", "state", "charges", "request", "cause", "class", "probabilities",
]


def main(parquet, tensors):
    table = pyarrow.parquet.read_table(parquet)
    assert table.column_names == COLUMNS, table.column_names
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    rows = [row for row in table.to_pylist() if row["probabilities"] is not None]
    with safe_open(tensors, framework="numpy") as file:
        assert file.metadata().items() <= metadata.items(), (file.metadata(), metadata)
        columns = {name: file.get_tensor(name) for name in file.keys()}
    classes = int(metadata["stillhouse.classes"])
    assert columns["probabilities"].shape == (len(rows), classes)
    for at, row in enumerate(rows):
        assert row["key"] == columns["keys"][at].tobytes()
        label = numpy.array(row["probabilities"], dtype=numpy.float32)
        assert label.tobytes() == columns["probabilities"][at].tobytes()
        assert row["class"] == label.argmax()
        assert abs(label.sum() - 1) < 1e-2
        assert row["kind"] == ["seed", "mix", "evaluation"][columns["kind"][at]]
        assert (row["first"], row["second"]) == (columns["first"][at], columns["second"][at])
        assert row["lambda"] == columns["lambda"][at]
        assert row["state"] in ("committed", "imported")
    print(f"{len(rows)} labels, equal in both")


if __name__ == "__main__":
    main(*sys.argv[1:])
