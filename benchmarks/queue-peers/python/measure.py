"""What the Python peers of `stillhouse-bench queue` share: the clock, and the account of what was delivered.

A worker writes a receipt for each job that it has finished and acknowledged: 16 bytes, the job's number and the time on
the machine's monotonic clock, at the end of one file. Every job must have one receipt, and the last of them ends the
clock. Producers and workers do `warmUp` jobs first; the clock starts when all of those have their receipts.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

RECEIPT = struct.Struct("<qq")
READY = -1
# A worker that has written nothing for so long is taken for broken.
PATIENCE_SECONDS = 60
# How often the file is looked at: often enough to end in time, rarely enough to cost nothing.
LOOK_SECONDS = 0.02

SETTING = json.loads(os.environ.get("SETTING") or sys.argv[1])


def reference(number):
    """64 bytes that end with the job's number."""
    return "f" * 54 + f"{number:010}"


def number_of(text):
    """The number of the job with the reference `text`."""
    return int(text[54:])


class Receipts:
    """The workers' side of the file."""

    def __init__(self):
        self.file = os.open(os.environ["RECEIPTS"], os.O_WRONLY | os.O_APPEND)

    def write(self, number):
        """Job `number` is done and acknowledged."""
        os.write(self.file, RECEIPT.pack(number, time.monotonic_ns()))

    def ready(self):
        """This worker takes jobs from now on."""
        self.write(READY)


def read(path):
    """Numbers and times of all receipts, in the order of writing."""
    with open(path, "rb") as file:
        return list(RECEIPT.iter_unpack(file.read()))


def wait_for(path, count, workers):
    """Waits until there are `count` receipts."""
    seen, since = 0, time.monotonic()
    while seen < count:
        time.sleep(LOOK_SECONDS)
        now = os.stat(path).st_size // RECEIPT.size
        if now > seen:
            seen, since = now, time.monotonic()
        broken = [worker.args for worker in workers if worker.poll() is not None]
        if broken or time.monotonic() - since > PATIENCE_SECONDS:
            raise RuntimeError(f"{seen} of {count} receipts after {PATIENCE_SECONDS} s, or ended: {broken}")


def timed(enqueue, numbers):
    """Enqueues jobs; when that began and ended."""
    began = time.monotonic_ns()
    enqueue(numbers)
    return began, time.monotonic_ns()


def produce(pool, enqueue, first, count):
    """Enqueues `count` jobs from number `first` on, shared between the producers; when it began and ended."""
    producers = SETTING["producers"]
    edges = [first + count * part // producers for part in range(producers + 1)]
    parts = [pool.submit(timed, enqueue, range(low, high)) for low, high in zip(edges, edges[1:])]
    began, ended = zip(*(part.result() for part in parts))
    return min(began), max(ended)


def run(enqueue, empty, commands, announcements):
    """Measures a peer and prints one line of JSON.

    `enqueue(numbers)` sends jobs, `empty()` drops what waits, `commands` start the workers, which write `announcements`
    receipts before they take jobs.
    """
    jobs, warm_up = SETTING["jobs"], SETTING["warmUp"]
    with tempfile.NamedTemporaryFile() as file, ProcessPoolExecutor(SETTING["producers"]) as pool:
        produce(pool, enqueue, jobs, warm_up)
        empty()
        began, ended = produce(pool, enqueue, 0, jobs)
        enqueue_seconds = (ended - began) / 1e9
        empty()
        environment = {**os.environ, "RECEIPTS": file.name, "SETTING": json.dumps(SETTING)}
        workers = [subprocess.Popen(command, env=environment, stdout=sys.stderr) for command in commands]
        try:
            wait_for(file.name, announcements, workers)
            produce(pool, enqueue, jobs, warm_up)
            wait_for(file.name, announcements + warm_up, workers)
            began, _ = produce(pool, enqueue, 0, jobs)
            wait_for(file.name, announcements + warm_up + jobs, workers)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
        receipts = [receipt for receipt in read(file.name) if 0 <= receipt[0] < jobs]
    once = len(receipts) == jobs and len({number for number, _ in receipts}) == jobs
    total = (max(at for _, at in receipts) - began) / 1e9
    print(json.dumps({"jobs": jobs, "enqueue_seconds": enqueue_seconds, "total_seconds": total, "delivered_once": once}))
