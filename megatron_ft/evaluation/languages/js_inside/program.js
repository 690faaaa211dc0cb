// Runs one tested program in its box and answers calls of its functions: node program.js IN OUT, the program on stdin.
//
// This process holds nothing worth reading: no test, no expected value, no token. The program may take over every line
// below; all that it gains is to answer calls, which is what it is there for.

"use strict";

const fs = require("fs");
const path = require("path");
const vm = require("vm");
const { createRequire } = require("module");
const { types } = require("util");
const { Channel, Ended, decode, encode } = require("./wire.js");

const FILE = "/tmp/program.js";
const { stringify } = JSON;
const { apply } = Reflect;
const { isArray } = Array;
const { isPromise } = types;

// What a program finds around it, as in a file that node runs.
function load(source, names) {
  const module = { exports: {}, filename: FILE };
  const found = names.map((name) => `${name}: typeof ${name} === "undefined" ? undefined : ${name}`).join(", ");
  let main;
  try {
    main = vm.compileFunction(`${source}\n;return {${found}}`, ["exports", "require", "module", "__filename", "__dirname"],
      { filename: "program.js" });
  } catch (error) {
    return { functions: {}, message: { stage: "compile", thrown: encode(error) } };
  }
  try {
    const functions = apply(main, module.exports, [module.exports, createRequire(FILE), module, FILE, path.dirname(FILE)]);
    return { functions, message: { names: names.filter((name) => typeof functions[name] === "function") } };
  } catch (error) {
    return { functions: {}, message: { stage: "load", thrown: encode(error) } };
  }
}

// Call one function: its value, and the arguments as the call left them where it changed them.
async function answer(functions, { call, args }) {
  const values = args.map(decode);
  const reply = {};
  try {
    let value = apply(functions[call], undefined, values);
    if (isPromise(value)) {
      reply.promise = true;
      value = await value;
    }
    const same = typeof value === "object" && value !== null ? values.indexOf(value) : -1;
    if (same >= 0) reply.same = same;
    else reply.value = encode(value);
  } catch (error) {
    reply.thrown = encode(error);
  }
  reply.changed = values.map((value, place) => [place, encode(value)]).filter(
    ([place, now]) => isArray(now) && stringify(now) !== stringify(args[place]));
  return reply;
}

async function main() {
  const channel = new Channel(Number(process.argv[2]), Number(process.argv[3]));
  const source = fs.readFileSync(0, "utf8");
  process.argv.splice(1, Infinity, FILE);
  channel.send({ ready: true });
  try {
    const { functions, message } = load(source, channel.receive().load);
    channel.send(message);
    for (;;) channel.send(await answer(functions, channel.receive()));
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
  }
  process.exit(0);
}

main();
