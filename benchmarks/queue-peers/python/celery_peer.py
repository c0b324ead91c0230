"""Celery beside `stillhouse-bench queue`: `python celery_peer.py SETTING`, with `pool`, `workers` and `concurrency`.

No results, no events, messages acknowledged as they are taken (Celery's default, and its faster way). Celery has no bulk
call: its best is one producer, and so one connection, for all messages.
"""

import sys

import redis
from celery import Celery
from celery.signals import worker_ready
from measure import SETTING, Receipts, number_of, reference, run

app = Celery("celery_peer", broker=SETTING["url"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_default_queue="jobs",
    worker_disable_rate_limits=True,
    worker_prefetch_multiplier=SETTING["prefetch"],
    worker_send_task_events=False,
)
receipts = None


def written():
    """This process's end of the file of receipts."""
    global receipts
    receipts = receipts or Receipts()
    return receipts


@app.task(ignore_result=True)
def job(text):
    written().write(number_of(text))


@worker_ready.connect
def announce(**_):
    written().ready()


def enqueue(numbers):
    with app.producer_or_acquire() as producer:
        for number in numbers:
            job.apply_async((reference(number),), producer=producer, add_to_parent=False)


def command():
    settings = ["-P", SETTING["pool"], "-c", str(SETTING["concurrency"])]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
    return [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", *settings, *quiet]


if __name__ == "__main__":
    # The workers know the task by the name of this module.
    from celery_peer import enqueue as sender

    workers = SETTING["workers"]
    commands = [[*command(), "-n", f"worker-{number}"] for number in range(workers)]
    run(sender, redis.Redis.from_url(SETTING["url"]).flushdb, commands, workers)
