"""RQ beside `stillhouse-bench queue`: `python rq_peer.py SETTING`, with `processes` and `chunk`.

Bulk enqueue through a pipeline; workers that do not fork a process for each job; no results, no timeouts.
"""

import logging
import sys

import redis
from measure import SETTING, Receipts, number_of, reference, run
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

connection = redis.Redis.from_url(SETTING["url"])
queue = Queue("jobs", connection=connection, serializer=JSONSerializer, default_timeout=-1)


def job(text):
    del text


class Worker(SimpleWorker):
    """Writes a receipt for each job whose end is in Redis."""

    def handle_job_success(self, job, *args, **kwargs):
        super().handle_job_success(job, *args, **kwargs)
        self.receipts.write(number_of(job.args[0]))


def enqueue(numbers):
    chunk = SETTING["chunk"]
    for low in range(numbers.start, numbers.stop, chunk):
        data = [
            Queue.prepare_data("rq_peer.job", (reference(number),), timeout=-1, result_ttl=0)
            for number in range(low, min(low + chunk, numbers.stop))
        ]
        queue.enqueue_many(data)


def work():
    worker = Worker([queue], connection=connection, serializer=JSONSerializer)
    worker.log.setLevel(logging.ERROR)
    worker.receipts = Receipts()
    worker.receipts.ready()
    worker.work(logging_level="ERROR")


if __name__ == "__main__":
    if sys.argv[1] == "work":
        from rq_peer import work as worker_main

        worker_main()
    else:
        from rq_peer import connection as shared
        from rq_peer import enqueue as sender

        processes = SETTING["processes"]
        run(sender, shared.flushdb, [[sys.executable, __file__, "work"]] * processes, processes)
