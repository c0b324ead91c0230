// BullMQ beside `stillhouse-bench queue`: `node peer.mjs SETTING`, a JSON object with `url`, `jobs`, `warmUp`, and of its
// own `client` ("ioredis" or "redis"), `producers` (processes), `chunk` (jobs an addBulk call), `inFlight` (such calls at a
// time), `processes` and `concurrency` (of the workers).
//
// Two measurements of `jobs` jobs each: bulk enqueue while nobody consumes, and enqueue with workers that wait already, to
// the last job that Redis has acknowledged as completed. The same processes do `warmUp` jobs first, and the clock starts
// when all of those are completed. Every job must be completed once. Prints one line of JSON.

import { fork } from 'node:child_process';
import { on, once } from 'node:events';

import { Queue, Worker } from 'bullmq';
import IORedis from 'ioredis';
import { createClient } from 'redis';

const QUEUE = 'jobs';
// How often a worker tells how many jobs it has completed: often enough to end in time, rarely enough to cost nothing.
const PROGRESS_MS = 20;
// A measurement that takes longer hangs.
const PATIENCE_MS = 300_000;

const setting = JSON.parse(process.argv[2]);

async function connect() {
  if (setting.client === 'redis') return createClient({ url: setting.url }).connect();
  return new IORedis(setting.url, { maxRetriesPerRequest: null });
}

const openQueue = async () =>
  new Queue(QUEUE, { connection: await connect(), defaultJobOptions: { removeOnComplete: true } });

// A reference of 64 bytes that ends with the job's number.
const reference = (number) => 'f'.repeat(54) + String(number).padStart(10, '0');
const numberOf = (text) => Number(text.slice(54));

// A producer: enqueues the jobs it is told to, and says when it began and ended.
async function produce() {
  const queue = await openQueue();
  await queue.waitUntilReady();
  process.on('message', async ({ first, end }) => {
    let next = first;
    const feed = async () => {
      while (next < end) {
        const begin = next;
        next = Math.min(end, begin + setting.chunk);
        const numbers = Array.from({ length: next - begin }, (_, at) => begin + at);
        await queue.addBulk(numbers.map((number) => ({ name: 'j', data: { r: reference(number) } })));
      }
    };
    const began = process.hrtime.bigint();
    await Promise.all(Array.from({ length: setting.inFlight }, feed));
    process.send({ began: String(began), ended: String(process.hrtime.bigint()) });
  });
  process.send('ready');
}

// A worker: completes jobs until it is asked which, and when it completed the last.
async function work() {
  const numbers = [];
  let last = 0n;
  let told = 0;
  const options = { connection: await connect(), concurrency: setting.concurrency, removeOnComplete: { count: 0 } };
  const worker = new Worker(QUEUE, async () => null, options);
  worker.on('completed', (job) => {
    numbers.push(numberOf(job.data.r));
    last = process.hrtime.bigint();
  });
  worker.on('error', (error) => console.error(error));
  await worker.waitUntilReady();
  setInterval(() => {
    if (numbers.length > told) process.send({ completed: (told = numbers.length) });
  }, PROGRESS_MS);
  process.once('message', async () => {
    await worker.close();
    process.send({ numbers, last: String(last) });
  });
  process.send('ready');
}

async function start(role, count) {
  const children = Array.from({ length: count }, () => fork(new URL(import.meta.url), [process.argv[2], role]));
  await Promise.all(children.map((child) => once(child, 'message')));
  for (const child of children) {
    child.on('exit', (code) => {
      if (code) throw new Error(`a process that should ${role} ended with ${code}`);
    });
  }
  return children;
}

const stop = (children) => children.forEach((child) => child.kill());

// Shares jobs between the producers; when the first began and the last ended, in nanoseconds.
async function enqueue(producers, first, count) {
  const edge = (part) => first + Math.floor((count * part) / producers.length);
  const reports = await Promise.all(
    producers.map(async (producer, part) => {
      producer.send({ first: edge(part), end: edge(part + 1) });
      return (await once(producer, 'message'))[0];
    }),
  );
  const times = (key) => reports.map((report) => BigInt(report[key])).sort((a, b) => (a < b ? -1 : 1));
  return { began: times('began')[0], ended: times('ended').at(-1) };
}

// A function that waits until the workers have completed so many jobs in all.
function counter(workers) {
  const counts = workers.map(() => 0);
  let wanted = Infinity;
  let reached;
  const look = () => counts.reduce((sum, count) => sum + count) >= wanted && reached();
  workers.forEach((worker, at) => {
    worker.on('message', ({ completed }) => {
      counts[at] = completed ?? counts[at];
      look();
    });
  });
  return (count) =>
    new Promise((resolve) => {
      [wanted, reached] = [count, resolve];
      look();
    });
}

async function report(worker) {
  worker.removeAllListeners('message');
  worker.send('report');
  for await (const [message] of on(worker, 'message')) {
    if (message.numbers) return message;
  }
}

async function enqueueAlone(producers) {
  const queue = await openQueue();
  await enqueue(producers, setting.jobs, setting.warmUp);
  await queue.obliterate();
  const { began, ended } = await enqueue(producers, 0, setting.jobs);
  const waiting = await queue.getWaitingCount();
  if (waiting !== setting.jobs) throw new Error(`expected ${setting.jobs} jobs to wait, found ${waiting}`);
  await queue.obliterate();
  return Number(ended - began) / 1e9;
}

async function toCompleted(producers, workers) {
  const completed = counter(workers);
  await enqueue(producers, setting.jobs, setting.warmUp);
  await completed(setting.warmUp);
  const { began } = await enqueue(producers, 0, setting.jobs);
  await completed(setting.warmUp + setting.jobs);
  const reports = await Promise.all(workers.map(report));
  const numbers = reports.flatMap((report) => report.numbers).filter((number) => number < setting.jobs);
  const last = reports.map((report) => BigInt(report.last)).reduce((one, other) => (one > other ? one : other));
  return {
    total_seconds: Number(last - began) / 1e9,
    delivered_once: numbers.length === setting.jobs && new Set(numbers).size === setting.jobs,
  };
}

async function measure() {
  setTimeout(() => { throw new Error(`no end after ${PATIENCE_MS} ms`); }, PATIENCE_MS).unref();
  const producers = await start('produce', setting.producers);
  const enqueueSeconds = await enqueueAlone(producers);
  const workers = await start('work', setting.processes);
  const whole = await toCompleted(producers, workers);
  stop([...producers, ...workers]);
  console.log(JSON.stringify({ jobs: setting.jobs, enqueue_seconds: enqueueSeconds, ...whole }));
  process.exit(0);
}

const role = { produce, work }[process.argv[3]];
// Without the process that measures, nothing here has a purpose.
if (role) process.on('disconnect', () => process.exit(1));
await (role ?? measure)();
