"""All-reduces floats over loopback by PyTorch's Gloo, in processes: the peer of
`stillhouse-worker bench all-reduce`.

Prints one line of JSON: {"ms": median of rank 0, "sum": ...}.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def rank(index, ranks, floats, repetitions, store):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=ranks)
    data = torch.empty(floats)
    times = []
    for _ in range(repetitions + 2):
        data.fill_(index + 1)
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(data)
        times.append(1e3 * (time.perf_counter() - begun))
    if index == 0:
        print(json.dumps({"ms": statistics.median(times[2:]), "sum": data[floats // 2].item()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--floats", type=int, required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        mp.spawn(rank, (args.ranks, args.floats, args.repetitions, store), nprocs=args.ranks)
