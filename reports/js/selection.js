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

  const COLUMNS = {
    id: (id) => id,
    density: (id) => probe.report.index.firings[id],
    max: (id) => probe.report.index.max[id],
    mean: (id) => probe.report.index.mean[id],
    share: (id) => probe.report.index.share[id],
    fit: (id) => probe.fitOf(id),
    module: (id) => probe.moduleOf(id),
  };

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
    const value = COLUMNS[sort.replace(/^-/, "")] || COLUMNS.id;
    const sign = sort.startsWith("-") ? -1 : 1;
    const keys = new Float64Array(firings.length);
    for (const id of kept) keys[id] = Number.isNaN(value(id)) ? -Infinity : value(id);
    return kept.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
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
