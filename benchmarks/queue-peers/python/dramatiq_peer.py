"""Dramatiq beside `stillhouse-bench queue`: `python dramatiq_peer.py SETTING`, with `processes` and `threads`.

No middleware but the receipts. Dramatiq has no bulk call: a group sends its messages one by one.
"""

import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from measure import SETTING, Receipts, number_of, reference, run


class Receipt(dramatiq.Middleware):
    """Writes a receipt for each message that Redis has acknowledged."""

    def __init__(self):
        self.receipts = None

    def after_worker_boot(self, broker, worker):
        self.receipts = Receipts()
        self.receipts.ready()

    def after_ack(self, broker, message):
        self.receipts.write(number_of(message.args[0]))


broker = RedisBroker(url=SETTING["url"], middleware=[Receipt()])
dramatiq.set_broker(broker)


@dramatiq.actor
def job(text):
    del text


def enqueue(numbers):
    for number in numbers:
        job.send(reference(number))


if __name__ == "__main__":
    from dramatiq_peer import broker as shared
    from dramatiq_peer import enqueue as sender

    processes, threads = str(SETTING["processes"]), str(SETTING["threads"])
    command = [sys.executable, "-m", "dramatiq", "dramatiq_peer", "--processes", processes, "--threads", threads]
    run(sender, shared.client.flushdb, [[*command, "--skip-logging"]], SETTING["processes"])
