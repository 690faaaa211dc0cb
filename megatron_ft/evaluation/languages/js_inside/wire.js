// JavaScript values as lines of JSON, read on both sides of the wall between a tested program and its tests.
//
// Reading never runs code of the other side: JSON becomes fresh values of the standard types, property by property, so that
// neither a getter, a toJSON, a proxy nor a key `__proto__` of the program does anything here.

"use strict";

const fs = require("fs");

const LINE_BYTES = 16 * 2 ** 20;
const READ_BYTES = 2 ** 16;
const MAXIMUM_DEPTH = 500;
const MAXIMUM_VALUES = 2_000_000; // of one message; a longer sparse array or a web of shared objects is not carried
const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
const BYTES = { Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array,
  Float64Array, BigInt64Array, BigUint64Array };
const RARE_NUMBERS = new Map([["NaN", NaN], ["Infinity", Infinity], ["-Infinity", -Infinity], ["-0", -0]]);

// The tested program may replace what it likes; what reads and writes its values is fetched before it is loaded.
const { parse, stringify } = JSON;
const { is, keys, defineProperty } = Object;
const { isArray } = Array;
const { apply } = Reflect;
const uncurried = (method) => (self, ...rest) => apply(method, self, rest);
const isOwn = uncurried(Object.prototype.hasOwnProperty);
const timeOf = uncurried(Date.prototype.getTime);
const described = uncurried(Symbol.prototype.toString);
const eachOfMap = uncurried(Map.prototype.forEach);
const eachOfSet = uncurried(Set.prototype.forEach);
const objectText = uncurried(Object.prototype.toString);
const { isDate, isMap, isSet, isNativeError, isTypedArray, isBoxedPrimitive, isRegExp, isPromise, isWeakMap, isWeakSet,
  isGeneratorObject } = require("util").types;

class Breach extends Error {} // the other side sent what the protocol does not know
class Ended extends Error {} // the other side closed its end

// A value of a kind that is not carried across; equal only to itself.
class Opaque {}
const foreign = new WeakSet(); // what stands here for values of the other side that were not carried

class Channel {
  constructor(incoming, outgoing) {
    this.incoming = incoming;
    this.outgoing = outgoing;
    this.rest = Buffer.alloc(0);
  }

  send(message) {
    const line = Buffer.from(stringify(message) + "\n");
    for (let sent = 0; sent < line.length;) {
      try {
        sent += fs.writeSync(this.outgoing, line, sent);
      } catch (error) {
        if (error.code === "EAGAIN") continue;
        throw new Ended();
      }
    }
  }

  receive() {
    const parts = [this.rest];
    let bytes = this.rest.length;
    let end = this.rest.indexOf(10);
    while (end < 0) {
      if (bytes > LINE_BYTES) throw new Breach(`an answer of more than ${LINE_BYTES} bytes`);
      const chunk = Buffer.allocUnsafe(READ_BYTES);
      const count = read(this.incoming, chunk);
      if (count === 0) throw new Ended();
      parts.push(chunk.subarray(0, count));
      end = parts[parts.length - 1].indexOf(10);
      if (end >= 0) end += bytes;
      bytes += count;
    }
    const all = parts.length === 1 ? parts[0] : Buffer.concat(parts);
    this.rest = all.subarray(end + 1);
    return message(all.subarray(0, end));
  }
}

function read(descriptor, chunk) {
  for (;;) {
    try {
      return fs.readSync(descriptor, chunk);
    } catch (error) {
      if (error.code === "EOF") return 0;
      if (error.code !== "EAGAIN") throw new Ended();
    }
  }
}

function message(line) {
  let found;
  try {
    found = parse(line.toString("utf8"));
  } catch (error) {
    throw new Breach("an answer that is not JSON");
  }
  if (found === null || typeof found !== "object" || isArray(found)) throw new Breach("an answer that is no message");
  return found;
}

// A value as JSON: null, booleans, strings and ordinary numbers as they are, all else as an array that begins with its kind.
function encode(value) {
  try {
    return encoded(value, { left: MAXIMUM_VALUES, around: new Set() }, 0);
  } catch (error) { // a cycle, or a getter that throws: nothing of it can be carried
    return ["opaque"];
  }
}

function encoded(value, state, depth) {
  if (--state.left < 0 || depth > MAXIMUM_DEPTH) throw new RangeError("too large to be carried");
  switch (typeof value) {
    case "undefined": return ["undefined"];
    case "boolean":
    case "string": return value;
    case "number": return value - value === 0 && !is(value, -0) ? value : ["number", is(value, -0) ? "-0" : `${value}`];
    case "bigint": return ["bigint", `${value}`];
    case "symbol": return ["symbol", described(value)];
    case "function": return ["function"];
  }
  if (value === null) return null;
  if (foreign.has(value) || state.around.has(value)) throw new TypeError("cannot be carried");
  state.around.add(value);
  const found = encodedObject(value, (inner) => encoded(inner, state, depth + 1), state);
  state.around.delete(value);
  return found;
}

function encodedObject(value, inner, state) {
  if (isArray(value)) return ["array", encodedArray(value, inner, state)];
  if (isDate(value)) return ["date", inner(timeOf(value))];
  if (isMap(value)) return ["map", gathered((add) => eachOfMap(value, (item, key) => add([inner(key), inner(item)])))];
  if (isSet(value)) return ["set", gathered((add) => eachOfSet(value, (item) => add(inner(item))))];
  if (isNativeError(value)) return ["error", `${value.name}`, `${value.message}`];
  if (isTypedArray(value) && isOwn(BYTES, typeName(value))) return ["bytes", typeName(value), gathered((add) => {
    for (let index = 0; index < value.length; index++) add(inner(value[index]));
  })];
  if (isBoxedPrimitive(value)) return typeof value.valueOf() === "object" ? ["opaque"] : ["boxed", inner(value.valueOf())];
  if ([isRegExp, isPromise, isWeakMap, isWeakSet, isGeneratorObject].some((isKind) => isKind(value))) return ["opaque"];
  return ["object", gathered((add) => {
    for (const key of keys(value)) {
      const item = value[key];
      if (key !== "toJSON" || typeof item !== "function") add([key, inner(item)]);
    }
  })];
}

function typeName(value) {
  return objectText(value).slice("[object ".length, -1);
}

function encodedArray(value, inner, state) {
  const length = value.length;
  if (length > state.left) throw new RangeError("too large to be carried");
  return gathered((add) => {
    for (let index = 0; index < length; index++) add(isOwn(value, index) ? inner(value[index]) : ["hole"]);
  });
}

// A list made without Array.prototype.push, which a program may have replaced.
function gathered(fill) {
  const list = [];
  fill((item) => defineProperty(list, list.length, { value: item, writable: true, enumerable: true, configurable: true }));
  return list;
}

// The value that `encode` wrote; Breach for anything else.
function decode(data) {
  try {
    return decoded(data);
  } catch (error) {
    throw new Breach("an answer that is no value");
  }
}

function decoded(data) {
  if (data === null || typeof data !== "object") {
    if (data === undefined) throw new TypeError("a value is missing");
    return data;
  }
  if (!isArray(data) || !isOwn(DECODERS, data[0])) throw new TypeError("no kind of value");
  return DECODERS[data[0]](data[1], data[2]);
}

const DECODERS = {
  undefined: () => undefined,
  number: (text) => {
    if (!RARE_NUMBERS.has(text)) throw new TypeError("no number");
    return RARE_NUMBERS.get(text);
  },
  bigint: (text) => BigInt(texts(text)),
  symbol: (text) => Symbol(texts(text).slice(7, -1)),
  function: () => standIn(function () { throw new TypeError("a function of the program cannot be called by its tests"); }),
  opaque: () => standIn(new Opaque()),
  array: (items) => {
    const found = [];
    lists(items).forEach((item, index) => {
      if (isArray(item) && item[0] === "hole") found.length = index + 1;
      else found[index] = decoded(item);
    });
    return found;
  },
  object: (entries) => {
    const found = {};
    for (const [key, item] of lists(entries)) put(found, texts(key), decoded(item));
    return found;
  },
  map: (entries) => new Map(lists(entries).map(([key, item]) => [decoded(key), decoded(item)])),
  set: (items) => new Set(lists(items).map(decoded)),
  date: (time) => new Date(decoded(time)),
  error: (name, text) => {
    const known = isOwn(ERRORS, texts(name));
    const found = new (known ? ERRORS[name] : Error)(texts(text));
    if (!known) put(found, "name", name);
    return found;
  },
  bytes: (name, items) => {
    if (!isOwn(BYTES, texts(name))) throw new TypeError("no kind of bytes");
    return BYTES[name].from(lists(items).map(decoded));
  },
  boxed: (item) => Object(decoded(item)),
};

function standIn(value) {
  foreign.add(value);
  return value;
}

function put(object, key, value) {
  defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

function texts(value) {
  if (typeof value !== "string") throw new TypeError("no text");
  return value;
}

function lists(value) {
  if (!isArray(value)) throw new TypeError("no list");
  return value;
}

// Whether an encoded value can be handed across as itself; functions and what was not carried here cannot.
function isCarried(data) {
  if (!isArray(data)) return true;
  const [kind, inside] = data;
  if (kind === "function" || kind === "opaque") return false;
  if (kind === "array" || kind === "set") return inside.every(isCarried);
  if (kind === "map") return inside.every(([key, item]) => isCarried(key) && isCarried(item));
  if (kind === "object") return inside.every(([, item]) => isCarried(item));
  return true;
}

module.exports = { Breach, Channel, Ended, decode, encode, foreign, isCarried, put };
