"""Trains in PyTorch eager mode: the peer of `stillhouse-worker bench train`.

One step is what a plain training loop does: gather a batch of `u8` images and soft labels, scale the
images to 0..1, forward, cross-entropy with soft labels, backward, SGD with momentum 0.9 and weight
decay 5e-4. Both memory formats, and PyTorch's plain and fused optimiser, are tried for a moment; the
fastest combination is measured. The median step counts, after a few that warm up.

Prints one line of JSON: {"step_ms": ..., "images_per_second": ...}. Images are random; the speed does
not depend on them.
"""

import argparse
import itertools
import json
import statistics
import time

import torch
import torch.nn.functional as F

from scoring_peer import NETWORKS, max_pool

CLASSES = 10
BATCHES_AN_EPOCH = 10
WARM_UP_STEPS = 5
# How long each combination is tried.
TRIAL_SECONDS = 1.0


class Loop:
    """A training loop of one network in one memory format."""

    def __init__(self, architecture, batch, layout, fused):
        torch.manual_seed(0)
        self.batch, self.layout, self.steps = batch, layout, 0
        self.name = f"{layout}{' fused' if fused else ''}"
        self.network = NETWORKS[architecture](max_pool).train().to(memory_format=layout)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused
        )
        samples = batch * BATCHES_AN_EPOCH
        self.images = torch.randint(0, 256, (samples, *NETWORKS[architecture].shape), dtype=torch.uint8)
        self.labels = torch.full((samples, CLASSES), 1 / CLASSES)

    def step(self):
        at = self.steps % BATCHES_AN_EPOCH
        if at == 0:
            self.order = torch.randperm(len(self.images))
        self.steps += 1
        chosen = self.order[at * self.batch : (at + 1) * self.batch]
        images = self.images[chosen].to(torch.float32, memory_format=self.layout).div_(255)
        loss = F.cross_entropy(self.network(images), self.labels[chosen])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def timed_step(self):
        begin = time.perf_counter()
        self.step()
        return time.perf_counter() - begin

    def trial(self):
        """Median seconds a step over a moment."""
        self.step()
        times, end = [], time.perf_counter() + TRIAL_SECONDS
        while time.perf_counter() < end:
            times.append(self.timed_step())
        return statistics.median(times)

    def median_seconds(self, steps):
        times = [self.timed_step() for _ in range(WARM_UP_STEPS + steps)]
        return statistics.median(times[WARM_UP_STEPS:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=NETWORKS, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    layouts = (torch.contiguous_format, torch.channels_last)
    loops = [
        Loop(arguments.architecture, arguments.batch, layout, fused)
        for layout, fused in itertools.product(layouts, (False, True))
    ]
    fastest = min(loops, key=Loop.trial)
    seconds = fastest.median_seconds(arguments.steps)
    result = {"step_ms": 1e3 * seconds, "images_per_second": arguments.batch / seconds}
    print(json.dumps({**result, "combination": fastest.name}))


if __name__ == "__main__":
    main()
