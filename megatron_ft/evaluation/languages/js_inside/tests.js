// Runs one problem's tests in a box of their own: node tests.js IN OUT REPORT, the job as JSON on stdin.
//
// The tests call the program's functions over a pipe. What the program cannot reach from its own box: the tests, the values
// they expect, the token that is written after their last statement, and this process.

"use strict";

const fs = require("fs");
const vm = require("vm");
const { createRequire } = require("module");
const { Breach, Channel, Ended, decode, encode, foreign, isCarried, put } = require("./wire.js");

const FILE = "/tmp/tests.js";
const NAME = "problem-tests.js";
const REASON_CHARACTERS = 2000;
Error.stackTraceLimit = 50; // so that the line of the tests is among the frames

// Write what happened and leave, so that no test can swallow it.
function end(kind, reason) {
  fs.writeSync(Number(process.argv[4]), kind === "passed" ? reason : `${kind}\n${reason.slice(0, REASON_CHARACTERS)}`);
  process.exit(0);
}

// The program's function of a name, as the tests call it.
function calling(channel, name) {
  return (...args) => {
    const data = args.map((value) => sent(channel, name, value));
    const { reply, value } = guarded(() => {
      channel.send({ call: name, args: data });
      const reply = channel.receive();
      channel.brought = true;
      for (const [place, now] of reply.changed) bringBack(among(args, place), decode(now));
      return { reply, value: "thrown" in reply ? decode(reply.thrown) : "same" in reply ? among(args, reply.same)
        : decode(reply.value) };
    });
    if (reply.promise === true) return "thrown" in reply ? Promise.reject(value) : Promise.resolve(value);
    if ("thrown" in reply) throw value;
    return value;
  };
}

// The argument that an answer names by its place.
function among(args, place) {
  if (!Number.isInteger(place) || place < 0 || place >= args.length) throw new Breach("an answer about no argument");
  return args[place];
}

// An argument as it is sent. One that cannot be is a fault of the tests only while nothing of it can be the program's: an
// answer that is too deep to be sent back must not stop the evaluator.
function sent(channel, name, value) {
  const data = encode(value);
  const own = typeof value === "function" ? !foreign.has(value) : !channel.brought;
  if (!isCarried(data) && own) end("broken", `the tests pass ${name} a value of type ${typeof value} that cannot be carried`);
  if (!isCarried(data)) throw new TypeError(`${name} gets a value of the program that is not carried to its tests`);
  return data;
}

// What the program did, in the terms of the report, where it broke the protocol.
function guarded(action) {
  try {
    return action();
  } catch (error) {
    if (error instanceof Ended) return end("ended", "");
    return end("refused", `the program sent ${error instanceof Breach ? error.message : "an answer that is no value"}`);
  }
}

// Put into arrays, objects, maps and sets what the call left in them; what lies inside stays the same where it can.
function bringBack(target, now) {
  if (Array.isArray(target) && Array.isArray(now)) {
    for (const key of Object.keys(target)) if (!Object.hasOwnProperty.call(now, key)) delete target[key];
    target.length = now.length;
    for (const key of Object.keys(now)) bringBackItem(target, key, now[key]);
  } else if (target instanceof Map && now instanceof Map) {
    target.clear();
    now.forEach((item, key) => target.set(key, item));
  } else if (target instanceof Set && now instanceof Set) {
    target.clear();
    now.forEach((item) => target.add(item));
  } else if (ArrayBuffer.isView(target) && ArrayBuffer.isView(now)) {
    target.set(now);
  } else if (isPlain(target) && isPlain(now)) {
    for (const key of Object.keys(target)) if (!Object.hasOwnProperty.call(now, key)) delete target[key];
    for (const key of Object.keys(now)) bringBackItem(target, key, now[key]);
  }
}

function bringBackItem(target, key, now) {
  const held = Object.getOwnPropertyDescriptor(target, key)?.value;
  const kept = Array.isArray(held) && Array.isArray(now) || isPlain(held) && isPlain(now);
  if (kept) bringBack(held, now);
  else put(target, key, now);
}

function isPlain(value) {
  return value !== null && typeof value === "object" && !foreign.has(value)
    && Object.prototype.toString.call(value) === "[object Object]";
}

// The line of the tests that an error came from, as a reason says it.
function place(error, job) {
  const line = /problem-tests\.js:(\d+)/.exec(error instanceof Error ? String(error.stack) : "");
  const number = line ? Number(line[1]) - job.context.split("\n").length : 0;
  return number > 0 ? `, at test line ${number}: ${statement(job.test.split("\n"), number - 1)}` : "";
}

// A line, with those that follow it while its parentheses are open.
function statement(lines, first) {
  let text = lines[first].trim();
  const open = () => text.split("(").length - text.split(")").length;
  for (let next = first + 1; open() > 0 && next < Math.min(lines.length, first + 8); next++) text += ` ${lines[next].trim()}`;
  return text;
}

// What was thrown, in words.
function said(error) {
  if (!(error instanceof Error)) return `thrown: ${typeof error === "object" ? JSON.stringify(error) : String(error)}`;
  return `${error.name}: ${error.message}`;
}

function failed(error, job) {
  end("failed", said(error).slice(0, REASON_CHARACTERS / 2) + place(error, job));
}

// The console of the tests; a failed assertion ends them.
function watching(job) {
  const found = Object.create(console);
  found.assert = (holds, ...words) => {
    if (holds) return;
    const error = new Error(words.map(String).join(" "));
    error.name = "failed assertion";
    end("failed", `${error.name}${error.message && `: ${error.message}`}${place(error, job)}`);
  };
  return found;
}

function main() {
  const channel = new Channel(Number(process.argv[2]), Number(process.argv[3]));
  const job = JSON.parse(fs.readFileSync(0, "utf8"));
  fs.writeSync(Number(process.argv[4]), "ready\n");
  try {
    channel.receive();
  } catch (error) {
    end("not started", "");
  }
  const names = ["require", "console", ...job.names];
  let tests;
  try {
    tests = vm.compileFunction(`${job.context}\n${job.test}`, names, { filename: NAME });
  } catch (error) {
    end("broken", `its own text does not run: ${error.name}: ${error.message}`);
  }
  process.on("uncaughtException", (error) => failed(error, job));
  process.on("unhandledRejection", (error) => failed(error, job));
  process.on("beforeExit", () => end("passed", job.token));
  const loaded = guarded(() => {
    channel.send({ load: job.names });
    const reply = channel.receive();
    if ("thrown" in reply) end(reply.stage === "compile" ? "compile error" : "failed", said(decode(reply.thrown)));
    return job.names.map((name) => reply.names.includes(name) ? calling(channel, name) : undefined);
  });
  tests(createRequire(FILE), watching(job), ...loaded);
}

main();
