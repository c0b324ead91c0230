"""Scores mixup candidates in PyTorch: the peer of `stillhouse-worker bench scoring`.

Two styles. `authors` has the shape of the loop in the released code of Active Mixup (arXiv
2003.13960): each pair is read from disk as two PNG files, and each of the eleven mixes goes through
the network on its own. `best` is the fastest plain PyTorch that we could write: images in memory,
large batches, inference mode, the faster memory format, pooling by strided maxima or by
`max_pool2d`, eager or frozen for inference. `find` tries all combinations for a moment, and the
fastest few again for longer; `best` measures the one that it is given.

Prints one line of JSON: {"candidates_per_second": ..., "combination": ...}. Images and weights are
random; the speed depends on neither.
"""

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import nn

LAMBDAS = torch.arange(30, 71, 4, dtype=torch.float32) / 100
SEED_IMAGES = 2000
# Images a batch, at most.
BATCHES = (16, 32, 64, 128, 256, 512)
# How long each combination is tried; how many are tried again, and for how long.
TRIAL_SECONDS = 0.3
FINALISTS = 4
FINAL_SECONDS = 1.5
REPEATS = 3


class LeNet5(nn.Module):
    """LeNet-5 as in FS-BBT: 6@5 valid, 16@5 same, 120, 84, 10."""

    shape = (1, 28, 28)

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(576, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class Block(nn.Module):
    """A basic block with shortcut A (He et al., arXiv 1512.03385, section 4.2)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR."""

    shape = (3, 32, 32)

    def __init__(self, _pool):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [(16, 16, 1)] + [(16, 16, 1)] * 2 + [(16, 32, 2)] + [(32, 32, 1)] * 2
        widths += [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*[Block(*width) for width in widths])
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


NETWORKS = {"lenet5": LeNet5, "resnet20": ResNet20}


def max_pool(x):
    return F.max_pool2d(x, 2)


def strided_pool(x):
    x = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    return torch.maximum(x[:, :, :, 0::2], x[:, :, :, 1::2])


def pair_images(start, count):
    """Positions of the images of pairs `start..start + count`: circular shifts."""
    ids = torch.arange(start, start + count)
    first = ids % SEED_IMAGES
    return first, (first - ids // SEED_IMAGES - 1) % SEED_IMAGES


def score_batch(network, images, count, layout, start):
    """Best score and lambda of `count` pairs, images `[n, c, h, w]` in 0..1."""
    first, second = pair_images(start, count)
    mixes = torch.lerp(images[second][:, None], images[first][:, None], LAMBDAS.view(1, -1, 1, 1, 1))
    logits = network(mixes.flatten(0, 1).contiguous(memory_format=layout))
    return logits.softmax(1).amax(1).view(count, -1).min(1)


def pools(architecture):
    return {p.__name__: p for p in ((max_pool, strided_pool) if architecture == "lenet5" else (max_pool,))}


LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def combinations(architecture):
    """Names of all ways to run the network."""
    sizes = (str(batch // len(LAMBDAS) * len(LAMBDAS)) for batch in BATCHES)
    return [" ".join(parts) for parts in itertools.product(pools(architecture), LAYOUTS, ("eager", "frozen"), sizes)]


def runner(architecture, images, combination):
    """A function that scores the pairs from a given one on, and how many."""
    pool, layout, way, batch = combination.split()
    layout, batch = LAYOUTS[layout], int(batch)
    network = NETWORKS[architecture](pools(architecture)[pool]).eval().to(memory_format=layout)
    if way == "frozen":
        example = torch.rand(batch, *images.shape[1:]).contiguous(memory_format=layout)
        with torch.no_grad():
            network = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, example)))
    run = functools.partial(score_batch, network, images, batch // len(LAMBDAS), layout)
    # libtorch's executor rewrites a frozen network during its first runs.
    for _ in range(3 if way == "frozen" else 1):
        run(0)
    return run, batch // len(LAMBDAS)


def trial(architecture, images, combination, seconds):
    """Candidates a second over a moment."""
    run, pairs = runner(architecture, images, combination)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        run(0)
        times.append(time.perf_counter() - begin)
    return pairs * len(LAMBDAS) / statistics.median(times)


def find_style(architecture, _pairs, details):
    images = torch.rand(SEED_IMAGES, *NETWORKS[architecture].shape)
    with torch.inference_mode():
        rates = {way: trial(architecture, images, way, TRIAL_SECONDS) for way in combinations(architecture)}
        finalists = sorted(rates, key=rates.get)[-FINALISTS:]
        rates = {way: trial(architecture, images, way, FINAL_SECONDS) for way in finalists}
    details["combination"] = max(rates, key=rates.get)
    return max(rates.values())


def best_style(architecture, pairs, details):
    images = torch.rand(SEED_IMAGES, *NETWORKS[architecture].shape)
    rates = []
    with torch.inference_mode():
        run, step = runner(architecture, images, details["combination"])
        for _ in range(REPEATS):
            begin = time.perf_counter()
            for start in range(0, pairs, step):
                run(start)
            done = -(-pairs // step) * step
            rates.append(done * len(LAMBDAS) / (time.perf_counter() - begin))
    return statistics.median(rates)


def authors_style(architecture, pairs, _details):
    from PIL import Image

    shape = NETWORKS[architecture].shape
    network = NETWORKS[architecture](max_pool).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = [Path(folder, f"{at}.png") for at in range(SEED_IMAGES)]
        for path in paths:
            pixels = numpy.random.randint(0, 256, (*shape[1:], shape[0]), dtype=numpy.uint8)
            Image.fromarray(pixels.squeeze()).save(path)

        def read(path):
            with Image.open(path) as image:
                pixels = torch.from_numpy(numpy.array(image)).view(*shape[1:], shape[0])
            return pixels.permute(2, 0, 1).float().div(255)

        begin = time.perf_counter()
        for pair in range(pairs):
            first, second = (read(paths[at]) for at in pair_images(pair, 1))
            scores = []
            for weight in LAMBDAS:
                mix = weight * first + (1 - weight) * second
                scores.append(network(mix.unsqueeze(0)).softmax(1).max().item())
            min(scores)
        return pairs * len(LAMBDAS) / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=NETWORKS, required=True)
    parser.add_argument("--style", choices=("authors", "find", "best"), required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=0, help="pairs to score")
    parser.add_argument("--combination", help="how `best` runs the network, as `find` says it")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    style = {"authors": authors_style, "find": find_style, "best": best_style}[arguments.style]
    details = {"combination": arguments.combination}
    rate = style(arguments.architecture, arguments.pairs, details)
    print(json.dumps({"candidates_per_second": rate, **details}))


if __name__ == "__main__":
    main()
