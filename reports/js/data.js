"use strict";
// Data files are scripts that call probe.take(NAME, VALUE): the only files that a page opened from
// disk may load. Arrays in them are base64 of gzip; unpack() gives typed arrays.
window.probe = {};
(function (probe) {
  const arrived = new Map();
  const asked = new Map();
  const KEPT = 64; // feature chunks in memory

  probe.DataError = class extends Error {};

  // A report in one file carries its files as blocks of text, found by their paths.
  probe.isSingle = document.documentElement.hasAttribute("data-single");
  const held = (path) => (probe.isSingle ? (document.getElementById(path)?.textContent ?? null) : null);

  // Where a link or a picture of the report points to: in one file, into that file.
  probe.address = (path) =>
    probe.isSingle
      ? (held(path) ?? path.replace(/^index\.html(?=#)/, "").replace(/^map\.html#?/, "#/map"))
      : path;

  probe.take = function (name, value) {
    arrived.set(name, value);
  };

  // Load a script of the report; resolves when it has run.
  probe.script = function (path) {
    if (probe.isSingle) return Promise.reject(new probe.DataError(`This file lacks ${path}.`));
    return new Promise((resolve, reject) => {
      const tag = document.createElement("script");
      tag.src = path;
      tag.onload = () => {
        tag.remove();
        resolve();
      };
      tag.onerror = () => {
        tag.remove();
        reject(
          new probe.DataError(`The file ${path} is missing or cannot be read. Was the whole folder copied?`),
        );
      };
      document.head.append(tag);
    });
  };

  // Load data/NAME.js once; rejects with a DataError that names the file.
  probe.load = function (name) {
    if (!asked.has(name)) {
      const found = read(name);
      found.catch(() => asked.delete(name));
      asked.set(name, found);
      forgetOldChunks(name);
    }
    return asked.get(name);
  };

  async function read(name) {
    const path = `data/${name}.js`;
    const block = held(path);
    if (block === null) await probe.script(path);
    else arrived.set(name, parsed(block));
    if (arrived.get(name) === undefined) throw damaged(path);
    const value = arrived.get(name);
    arrived.delete(name);
    if (!value || typeof value.gz !== "string") return value;
    try {
      return { ...value, gz: null, ...(await unpack(value)) };
    } catch (problem) {
      throw problem instanceof probe.DataError ? problem : damaged(path);
    }
  }

  function parsed(block) {
    try {
      return JSON.parse(block);
    } catch {
      return undefined;
    }
  }

  function damaged(path) {
    return new probe.DataError(`The file ${path} is damaged. Write the report again.`);
  }

  function forgetOldChunks(name) {
    if (!name.startsWith("f/")) return;
    const chunks = [...asked.keys()].filter((key) => key.startsWith("f/"));
    if (chunks.length > KEPT) asked.delete(chunks[0]);
  }

  const KINDS = {
    u1: Uint8Array,
    u2: Uint16Array,
    u4: Uint32Array,
    i2: Int16Array,
    i4: Int32Array,
    f4: Float32Array,
  };

  async function unpack(packed) {
    if (!window.DecompressionStream) {
      throw new probe.DataError(
        "This browser cannot unpack the report's data (no DecompressionStream): use a newer one.",
      );
    }
    const bytes = await inflated(fromBase64(packed.gz));
    const columns = {};
    const shapes = {};
    let start = 0;
    for (const [name, kind, shape] of packed.columns) {
      const size = KINDS[kind].BYTES_PER_ELEMENT;
      const count = shape.reduce((a, b) => a * b, 1);
      if (start + count * size > bytes.length) throw new Error("short");
      const planes = bytes.subarray(start, start + count * size);
      later(columns, name, () => fromPlanes(planes, size, KINDS[kind]));
      shapes[name] = shape;
      start += count * size;
    }
    return { columns, shapes };
  }

  async function inflated(bytes) {
    const stream = new DecompressionStream("gzip");
    const writer = stream.writable.getWriter();
    const written = writer.write(bytes).then(() => writer.close());
    const [buffer] = await Promise.all([new Response(stream.readable).arrayBuffer(), written]);
    return new Uint8Array(buffer);
  }

  // A property that is made when it is first asked for: a page needs few of the columns.
  function later(object, name, make) {
    Object.defineProperty(object, name, {
      configurable: true,
      enumerable: true,
      get() {
        const value = make();
        Object.defineProperty(object, name, { value, enumerable: true });
        return value;
      },
    });
  }

  // Numbers from their first bytes, all second bytes, and so on.
  function fromPlanes(planes, size, Kind) {
    if (size === 1) return new Kind(planes);
    const count = planes.length / size;
    const words = size === 2 ? new Uint16Array(count) : new Uint32Array(count);
    const plane = (number) => planes.subarray(number * count, (number + 1) * count);
    const [a, b] = [plane(0), plane(1)];
    if (size === 2) for (let i = 0; i < count; i++) words[i] = a[i] | (b[i] << 8);
    else {
      const [c, d] = [plane(2), plane(3)];
      for (let i = 0; i < count; i++) words[i] = a[i] | (b[i] << 8) | (c[i] << 16) | (d[i] << 24);
    }
    return new Kind(words.buffer);
  }

  function fromBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }
})(window.probe);
