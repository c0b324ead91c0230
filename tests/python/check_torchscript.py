"""Compares the students of a finished job with a plain LeNet-5: check_torchscript.py DIR.

Loads DIR/student.pt and DIR/control.pt with torch.jit.load, the weights beside them into a LeNet-5
written here, and prints the largest difference of their logits: name, images in the batch, difference.
"""

import json
import pathlib
import struct
import sys

import torch
from torch import nn


class LeNet5(nn.Module):
    """As FS-BBT gives it: a valid and a same 5x5 convolution, each with ReLU and 2x2 pooling."""

    def __init__(self, shapes):
        super().__init__()
        (c1, c0), (c2, _) = shapes["conv1.weight"][:2], shapes["conv2.weight"][:2]
        self.conv1 = nn.Conv2d(c0, c1, 5)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2)
        self.fc1 = nn.Linear(shapes["fc1.weight"][1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, shapes["fc3.weight"][0])

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


def safetensors(path):
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        begin, end = (8 + length + at for at in info["data_offsets"])
        tensors[name] = torch.frombuffer(data[begin:end], dtype=torch.float32).reshape(info["shape"])
    return tensors


folder = pathlib.Path(sys.argv[1])
torch.manual_seed(0)
for name in ["student", "control"]:
    weights = safetensors(folder / f"{name}.safetensors")
    network = LeNet5({key: list(value.shape) for key, value in weights.items()}).eval()
    network.load_state_dict(weights)
    script = torch.jit.load(str(folder / f"{name}.pt"))
    for images in [1, 7]:
        x = torch.randint(0, 256, (images, 1, 8, 8)) / 255
        with torch.no_grad():
            print(name, images, (script(x) - network(x)).abs().max().item())
