// Node at work: timers, a worker thread with shared memory and messages, a thread pool (zlib, files), a TCP echo.
// argv: go file. Prints the number of each round.

import { existsSync, promises as files } from "node:fs";
import { createServer, connect } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { promisify } from "node:util";
import { deflate, inflate } from "node:zlib";

function expect(name, found, wanted) {
  if (found !== wanted) {
    console.log(`${name}: ${found} instead of ${wanted}`);
    process.exit(1);
  }
}

if (!isMainThread) {
  const shared = new Int32Array(workerData);
  parentPort.on("message", (number) => {
    Atomics.add(shared, 0, number);
    parentPort.postMessage(number * number);
  });
} else {
  const go = process.argv[2];
  const memory = new SharedArrayBuffer(4);
  const worker = new Worker(new URL(import.meta.url), { workerData: memory });
  const server = createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connect(server.address().port, "127.0.0.1");
  let ticks = 0;
  const ticking = setInterval(() => (ticks += 1), 5);
  console.log("ready");
  let total = 0;
  for (let round = 1; !existsSync(go); round += 1) {
    worker.postMessage(round);
    expect("worker", (await once(worker, "message"))[0], round * round);
    total += round;
    expect("shared memory", Atomics.load(new Int32Array(memory), 0), total);
    const words = `words ${round} `.repeat(1000);
    const packed = await promisify(deflate)(words);
    expect("zlib", (await promisify(inflate)(packed)).toString(), words);
    const file = `${go}.words.${round}`; // one that no later round writes to: a restore leaves it as it is
    await files.writeFile(file, words);
    expect("file", await files.readFile(file, "utf8"), words);
    const start = process.hrtime.bigint(); // before the event behind which the sleep begins: by that the loop sets its clock
    client.write(`${round}\n`);
    expect("echo", (await once(client, "data"))[0].toString(), `${round}\n`);
    const before = ticks;
    await sleep(20);
    expect("slept long enough", process.hrtime.bigint() - start > 18_000_000n, true);
    expect("interval", ticks > before, true);
    console.log(round);
  }
  clearInterval(ticking);
  client.end();
  server.close();
  await worker.terminate();
  console.log("ok");
}
