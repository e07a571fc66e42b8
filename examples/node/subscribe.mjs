// Prints every event once, whatever is restarted meanwhile: docs/events.md in JavaScript.
//
//   npm install && node subscribe.mjs [ENDPOINT] [CURSOR FILE]
//
// It subscribes to everything, so sequences have no holes and one number says how far it came. With
// a narrower subscription, gaps show in `previous`, topic by topic: see docs/events.md.
import { readFile, rename, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer, Subscriber } from "zeromq";

const [endpoint = "tcp://127.0.0.1:5555", file = "subscribe.cursor"] = process.argv.slice(2);
const replayEndpoint = endpoint.startsWith("tcp://")
  ? endpoint.replace(/\d+$/, (port) => Number(port) + 1)
  : `${endpoint}-replay`;

let cursor = await load(); // everything up to here is dealt with
let saved = cursor;
let saving = Promise.resolve();
let number = 0; // of the newest question to the replay socket

function dealWith(event) {
  console.log(event.sequence, event.kind, event.camera, event.identity ?? "-");
}

async function load() {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    return { epoch: "", sequence: 0 }; // all that the journal holds
  }
}

// One write at a time, and whoever asks waits for all of them: an interrupt may come during one.
function save() {
  saving = saving.then(async () => {
    if (cursor === saved) return;
    const now = cursor;
    await writeFile(`${file}.new`, JSON.stringify(now), { mode: 0o600 });
    await rename(`${file}.new`, file);
    saved = now;
  });
  return saving;
}

function take(event) {
  if (event.sequence <= cursor.sequence) return; // a repeat
  dealWith(event);
  cursor = { epoch: event.epoch, sequence: event.sequence };
}

async function ask() {
  number += 1;
  const { epoch, sequence: after } = cursor;
  await replay.send(
    encode({ type: "request", version: 1, number, epoch, after, topics: [], credit: 500 }),
  );
}

// Reads from the journal what is missing. Live events wait in their socket meanwhile.
async function catchUp() {
  for (let asked = false; ; ) {
    let answer;
    try {
      if (!asked) await ask();
      asked = true;
      answer = decode((await replay.receive())[0]);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      asked = false; // nobody answers: the publisher is away, or forgot the question
      continue;
    }
    if (answer.number !== number) continue; // to an older question
    if (answer.type === "events") {
      for (const payload of answer.payloads) take(decode(payload));
      await replay.send(encode({ type: "credit", number, credit: answer.payloads.length }));
    } else if (answer.type === "done") {
      cursor = { epoch: answer.epoch, sequence: answer.head };
      return save();
    } else {
      asked = false;
      if (answer.reason === "expired") {
        console.error(`events ${cursor.sequence + 1} to ${answer.oldest - 1} are lost`);
        cursor = { epoch: answer.epoch, sequence: answer.oldest - 1 };
      } else if (answer.reason === "epoch") {
        console.error("the publisher has a new journal: numbers start over");
        cursor = { epoch: answer.epoch, sequence: 0 };
      } else if (answer.reason === "busy") {
        await sleep(2000);
      } else {
        throw new Error(answer.detail);
      }
    }
  }
}

const live = new Subscriber({ receiveHighWaterMark: 10000 });
// With `immediate`, a question waits for a connection and is not queued for later.
const replay = new Dealer({ immediate: true, sendTimeout: 5000, receiveTimeout: 5000, linger: 0 });
live.connect(endpoint);
live.subscribe("facestream/v1/"); // heartbeats too
replay.connect(replayEndpoint);
process.once("SIGINT", () => save().then(() => process.exit(0)));

await catchUp();
for await (const [, payload] of live) {
  const message = payload[0] === 0x7b ? JSON.parse(payload.toString()) : decode(payload);
  const beat = message.kind === "heartbeat";
  const before = beat ? message.head : message.sequence - 1; // what must have come by now
  if (message.epoch !== cursor.epoch || before > cursor.sequence) await catchUp();
  if (beat) await save();
  else take(message);
}
