"""Compares exported students with PyTorch: run as check_export.py FOLDER.

FOLDER holds, for each NAME: NAME.pt (TorchScript), NAME.safetensors, NAME.x and NAME.y (input and
expected logits, little-endian float32). Prints one line a comparison: what, largest difference.
"""

import json
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F


def tensors(path):
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, info in header.items():
        begin, end = (8 + length + at for at in info["data_offsets"])
        found[name] = torch.frombuffer(data[begin:end], dtype=torch.float32).reshape(info["shape"])
    return found


def lenet(w, x):
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], padding=2)), 2)
    x = x.flatten(1)
    for name in ["fc1", "fc2"]:
        x = F.relu(F.linear(x, w[name + ".weight"], w[name + ".bias"]))
    return F.linear(x, w["fc3.weight"], w["fc3.bias"])


def batch_norm(w, name, x):
    names = ["running_mean", "running_var", "weight", "bias"]
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in names))


def resnet20(w, x):
    x = F.relu(batch_norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1)))
    for stage in (1, 2, 3):
        for block in range(3):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[name + ".conv1.weight"], stride=stride, padding=1)
            y = F.relu(batch_norm(w, name + ".bn1", y))
            y = batch_norm(w, name + ".bn2", F.conv2d(y, w[name + ".conv2.weight"], padding=1))
            if stride == 2:
                new = y.shape[1] - x.shape[1]
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new // 2))
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


EAGER = {"lenet5": lenet, "resnet20": resnet20}

folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.pt")):
    name = path.stem
    module = torch.jit.load(str(path))
    shape = json.loads((folder / f"{name}.json").read_text())
    x = torch.frombuffer(bytearray((folder / f"{name}.x").read_bytes()), dtype=torch.float32).reshape(shape)
    y = torch.frombuffer(bytearray((folder / f"{name}.y").read_bytes()), dtype=torch.float32).reshape(shape[0], -1)
    with torch.no_grad():
        print(name, "script", (module(x) - y).abs().max().item())
        print(name, "script-of-one", (module(x[:1]) - y[:1]).abs().max().item())
        if name in EAGER:
            weights = tensors(folder / f"{name}.safetensors")
            print(name, "eager", (EAGER[name](weights, x) - y).abs().max().item())
