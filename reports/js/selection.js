"use strict";
// Which features a search, filters and an order leave; the same on the list and on the map.
(function (probe) {
  let lowered = null;
  addEventListener("noteschange", () => {
    lowered = null;
  });

  function texts() {
    if (!lowered) {
      lowered = Array.from({ length: probe.report.count }, (_, id) => probe.report.line(id).toLowerCase());
      for (const [feature, entry] of Object.entries(probe.notes.entries())) {
        lowered[feature] = `${lowered[feature] || ""}\u001f${entry.label}\u001f${entry.note}`.toLowerCase();
      }
    }
    return lowered;
  }

  // A test of features: every word of the search is in its number, tokens, label or note.
  probe.matcher = function (search) {
    const words = search.toLowerCase().trim().split(/\s+/).filter(Boolean);
    if (words.length === 0) return () => true;
    const all = texts();
    return (id) =>
      words.every(
        (word) =>
          (all[id] || "").includes(word) || (/^#?\d+$/.test(word) && String(id) === word.replace("#", "")),
      );
  };

  // What a feature is sorted by: whole numbers from 0 on.
  const KEYS = {
    id: () => (id) => id,
    density: ({ firings }) => (id) => firings[id],
    max: ({ max }) => ordered(max),
    mean: ({ mean }) => ordered(mean),
    share: ({ share }) => (id) => share[id],
    fit: ({ fit }) => (id) => (fit[id] === 255 ? 0 : fit[id] + 1),
    module: ({ module }) => (id) => module[id],
  };

  // The bits of floating numbers as whole numbers in the same order; what is no number comes first.
  function ordered(values) {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    return (id) =>
      Number.isNaN(values[id]) ? 0 : bits[id] & 0x80000000 ? ~bits[id] >>> 0 : (bits[id] | 0x80000000) >>> 0;
  }

  // Numbers of features by a key, rising or falling, and those of one key by themselves: sorted by
  // 11 bits of the key after the other, which takes a tenth of what comparing takes.
  function sorted(ids, key, isFalling) {
    const keys = Uint32Array.from(ids, isFalling ? (id) => ~key(id) : key);
    let [from, to] = [Uint32Array.from(ids.keys()), new Uint32Array(ids.length)];
    for (let shift = 0; shift < 32; shift += 11) {
      const places = new Uint32Array(2049);
      for (let i = 0; i < from.length; i++) places[((keys[from[i]] >>> shift) & 2047) + 1]++;
      for (let i = 1; i < 2049; i++) places[i] += places[i - 1];
      for (let i = 0; i < from.length; i++) to[places[(keys[from[i]] >>> shift) & 2047]++] = from[i];
      [from, to] = [to, from];
    }
    return Array.from(from, (at) => ids[at]);
  }

  // Features that the state leaves, in its order. State: q, sort ("density", "-density"), from, to
  // (log10 of density), module, part, starred, clear, dead ("1" to show dead features).
  probe.select = function (state) {
    const matches = probe.matcher(state.q || "");
    const { firings, order } = probe.report.index;
    const low = state.from ? 10 ** Number(state.from) : 0;
    const high = state.to ? 10 ** Number(state.to) : Infinity;
    const module = state.module === "" || state.module === undefined ? null : Number(state.module);
    const sort = state.sort || "-density";
    const given = sort === "-density" ? order : undefined;
    const kept = [];
    for (let at = 0; at < firings.length; at++) {
      const id = given ? given[at] : at;
      if (!firings[id] && state.dead !== "1") continue;
      if (low > 0 || high < Infinity) {
        const density = probe.density(id);
        if (density < low * 0.9999 || density > high * 1.0001) continue;
      }
      if (module !== null && probe.moduleOf(id) !== module) continue;
      if (state.part && probe.report.index.part[id] !== Number(state.part)) continue;
      if (state.clear === "1" && !probe.isClear(id)) continue;
      if (state.starred === "1" && !probe.notes.get(id).star) continue;
      if (matches(id)) kept.push(id);
    }
    if (given) return kept;
    const make = KEYS[sort.replace(/^-/, "")] || KEYS.id;
    return sorted(kept, make(probe.report.index), sort.startsWith("-"));
  };

  // The selection as a file.
  probe.exportSelection = function (ids, kind) {
    const { index } = probe.report;
    const rows = ids.map((id) => ({
      feature: id,
      own_label: probe.notes.get(id).label,
      label: probe.labelOf(id).text,
      balanced_accuracy: Number.isNaN(probe.labelOf(id).fit) ? null : probe.labelOf(id).fit,
      tokens: probe.tokensOf(id),
      firings: index.firings[id],
      density: probe.density(id),
      max: index.max[id],
      mean: Number.isNaN(index.mean[id]) ? null : index.mean[id],
      top_token_share: Number((index.share[id] / 65535).toFixed(6)),
      module: probe.moduleOf(id),
    }));
    if (kind === "json")
      return probe.download("features.json", "application/json", JSON.stringify(rows, null, 1));
    // A cell that a spreadsheet would take for a formula gets a quote in front.
    const cell = (value) => {
      const text = Array.isArray(value) ? value.join(" | ") : value === null ? "" : String(value);
      const safe = typeof value !== "number" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
      return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
    };
    const names = [
      "feature",
      "own_label",
      "label",
      "balanced_accuracy",
      "tokens",
      "firings",
      "density",
      "max",
      "mean",
      "top_token_share",
      "module",
    ];
    const lines = [names.join(","), ...rows.map((row) => names.map((name) => cell(row[name])).join(","))];
    return probe.download("features.csv", "text/csv", `${lines.join("\r\n")}\r\n`);
  };
})(window.probe);
