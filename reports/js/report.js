"use strict";
// The report's data as the pages use them: features, contexts, vocabulary, modules.
(function (probe) {
  const NONE16 = 65535;

  // Load what every page needs; afterwards probe.report holds it.
  probe.open = async function () {
    const [manifest, index, labels, notes] = await Promise.all(
      ["manifest", "index", "labels", "notes"].map(probe.load),
    );
    probe.report = {
      manifest,
      index: index.columns,
      baked: notes,
      count: manifest.features,
      line: linesOf(labels.columns),
      marks: marksOf(manifest, labels.columns.text),
    };
    return probe.report;
  };

  // What rows are told apart by: tokens, or the classes of images; null for images without any.
  const marksOf = ({ kind }, text) =>
    kind === "text"
      ? { one: "token", many: "tokens" }
      : text.includes(0x1f)
        ? { one: "class", many: "classes" }
        : null;

  // Return what gives the label and tokens of a feature. They become text when they are asked for:
  // that of all 131,072 takes 20 ms.
  function linesOf({ text, lengths }) {
    const starts = offsets(lengths);
    const decoder = new TextDecoder();
    return (feature) =>
      feature < lengths.length ? decoder.decode(text.subarray(starts[feature], starts[feature + 1])) : "";
  }

  // The commonest tokens of a feature, as a reader sees them.
  probe.tokensOf = (feature) => probe.report.line(feature).split("\u001f").slice(1);

  // The label that was made for a feature, whether it is clear, and its balanced accuracy or NaN.
  probe.labelOf = (feature) => {
    const [text] = probe.report.line(feature).split("\u001f");
    return { text, isClear: probe.isClear(feature), fit: probe.fitOf(feature) };
  };

  probe.isClear = (feature) => probe.report.index.clear[feature] === 1;

  // Balanced accuracy of a feature's label, or NaN.
  probe.fitOf = (feature) => {
    const { fit } = probe.report.index;
    return fit[feature] === 255 ? NaN : fit[feature] / 200;
  };

  probe.density = (feature) => probe.report.index.firings[feature] / (probe.report.manifest.rows || 1);

  probe.moduleOf = (feature) => probe.report.index.module[feature] - 1;

  // The members of a module, densest first.
  probe.members = function (module) {
    const { firings, module: modules } = probe.report.index;
    if (!probe.report.members) {
      probe.report.members = new Map();
      for (let id = 0; id < modules.length; id++) {
        if (modules[id] === 0) continue;
        if (!probe.report.members.has(modules[id] - 1)) probe.report.members.set(modules[id] - 1, []);
        probe.report.members.get(modules[id] - 1).push(id);
      }
      for (const ids of probe.report.members.values()) ids.sort((a, b) => firings[b] - firings[a] || a - b);
    }
    return probe.report.members.get(module) || [];
  };

  // What a module is about: the tokens that come first with most of its members.
  probe.tokensOfModule = function (module, most = 4) {
    const counts = new Map();
    for (const id of probe.members(module)) {
      const [token] = probe.tokensOf(id);
      if (token !== undefined) counts.set(token, (counts.get(token) || 0) + 1);
    }
    return [...counts]
      .sort((a, b) => b[1] - a[1])
      .slice(0, most)
      .map(([token]) => token);
  };

  // Place on the map, 0 to 1, or null for a feature that is not on it.
  probe.place = (feature) => {
    const { x, y } = probe.report.index;
    if (x[feature] === NONE16 || y[feature] === NONE16) return null;
    return [x[feature] / 65534, y[feature] / 65534];
  };

  // The 16 bars of each feature's small histogram, 0 to 15.
  probe.sparks = async () => {
    const { columns } = await probe.load("spark");
    return (feature) => {
      const bars = [];
      for (let i = feature * 8; i < feature * 8 + 8; i++) {
        bars.push(columns.bars[i] >> 4, columns.bars[i] & 15);
      }
      return bars;
    };
  };

  // Everything about one feature.
  probe.feature = async function (id) {
    const size = probe.report.manifest.layout.chunk;
    const name = `f/${String(Math.floor(id / size)).padStart(5, "0")}`;
    const chunk = await probe.load(name);
    const at = id % size;
    const one = (column) => chunk.columns[column][at];
    const row = (column) => {
      const width = chunk.shapes[column][1];
      return chunk.columns[column].subarray(at * width, (at + 1) * width);
    };
    const signed = (value) => (value === -32768 ? NaN : value / 32767);
    const pairs = (ids, ...others) =>
      [...row(ids)]
        .map((value, i) => [value - 1, ...others.map(([column, scale]) => scale(row(column)[i]))])
        .filter(([value]) => value >= 0);
    const same = (value) => value;
    return {
      id,
      firings: probe.report.index.firings[id],
      density: probe.density(id),
      module: probe.moduleOf(id),
      cluster: probe.report.index.cluster[id] - 1,
      max: one("max"),
      mean: one("mean"),
      meanActivation: one("mean_activation"),
      std: one("std"),
      skew: one("skew"),
      kurtosis: one("kurtosis"),
      norm: one("decoder_norm"),
      histogramTop: one("histogram_top"),
      histogram: row("histogram"),
      quantiles: row("quantiles"),
      tokens: pairs("token_ids", ["token_shares", (v) => v / 65535], ["token_lifts", same]).filter(
        ([, share]) => share > 0,
      ),
      nearest: pairs("nearest_ids", ["nearest_cosines", signed]),
      cofiring: pairs("cofiring_ids", ["cofiring_phis", signed], ["cofiring_counts", same]),
      label: labelScores(one),
      places: [...row("places")],
      neurons: pairs("neuron_ids", ["neuron_correlations", signed]),
      followed: pairs("followed_ids", ["followed_phis", signed]),
      promoted: pairs("promoted_ids", ["promoted_values", same]),
      suppressed: pairs("suppressed_ids", ["suppressed_values", same]),
      logits: logitsOf(chunk, one, row),
      examples: examplesOf(chunk, at),
    };
  };

  // Bars are counted in sixths of a doubling.
  function logitsOf(chunk, one, row) {
    if (!chunk.shapes.logit_bars[1]) return null;
    const [low, high] = row("logit_range");
    const counts = [...row("logit_bars")].map((level) => Math.round(2 ** (level / 6) - 1));
    return { counts, low, high, std: one("logit_std"), skew: one("logit_skew"), kurtosis: one("logit_kurtosis") };
  }

  function labelScores(one) {
    const share = (name) => (one(`label_${name}`) === 255 ? NaN : one(`label_${name}`) / 200);
    const names = ["low", "high", "sensitivity", "specificity", "precision", "hard_accuracy"];
    return { ...Object.fromEntries(names.map((name) => [name, share(name)])), firings: one("label_firings") };
  }

  function offsets(counts) {
    const found = new Uint32Array(counts.length + 1);
    for (let i = 0; i < counts.length; i++) found[i + 1] = found[i] + counts[i];
    return found;
  }

  function examplesOf(chunk, at) {
    const c = chunk.columns;
    chunk.starts ||= offsets(c.example_counts);
    chunk.firedStarts ||= offsets(c.fired_counts);
    const found = [];
    const top = c.max[at] > 0 ? c.max[at] : 1;
    let halvings = 0;
    for (let i = chunk.starts[at]; i < chunk.starts[at + 1]; i++) {
      // Each value is some 1024ths of a halving below the one before of its kind.
      const isFirst = i === chunk.starts[at] || c.example_kind[i] !== c.example_kind[i - 1];
      halvings = (isFirst ? 0 : halvings) + c.example_steps[i];
      const value = top * 2 ** (-halvings / 1024);
      const fired = new Map();
      let place = c.example_position[i];
      for (let j = chunk.firedStarts[i]; j < chunk.firedStarts[i + 1]; j++) {
        place += j === chunk.firedStarts[i] ? -c.fired_step[j] : c.fired_step[j];
        const own = Math.min(1, value / top);
        fired.set(place, place === c.example_position[i] ? own : c.fired_level[j] / 255);
      }
      found.push({
        kind: c.example_kind[i] === 0 ? "top" : "random",
        value,
        loss: c.example_loss[i],
        context: c.example_context[i],
        position: c.example_position[i],
        fired,
      });
    }
    return found;
  }

  function shardOf(rank) {
    const starts = probe.report.manifest.layout.shards;
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= rank) low = middle;
      else high = middle - 1;
    }
    return [low, rank - starts[low]];
  }

  // One context of the corpus: token ranks (from 1), document name, position of its first token.
  probe.context = async function (rank) {
    const [shard, at] = shardOf(rank);
    const found = await probe.load(`corpus/${String(shard).padStart(3, "0")}`);
    found.starts ||= offsets(found.columns.lengths);
    return {
      rank,
      tokens: found.columns.tokens.subarray(found.starts[at], found.starts[at + 1]),
      document: found.documents[found.columns.document[at]],
      start: found.columns.start[at],
    };
  };

  // One image: its name, its class (a token rank from 1), its pixels or its file.
  probe.picture = async function (rank) {
    const layout = probe.report.manifest.layout;
    const [shard, at] = shardOf(rank);
    const found = await probe.load(`pictures/${String(shard).padStart(3, "0")}`);
    const [height, width, channels] = layout.picture;
    const size = height * width * channels;
    const number = String(rank).padStart(6, "0");
    return {
      rank,
      name: found.names[at],
      label: found.columns.label[at],
      height,
      width,
      channels,
      pixels: layout.are_files ? null : found.columns.pixels.subarray(at * size, (at + 1) * size),
      file: layout.are_files
        ? `img/${String(Math.floor(rank / 1000)).padStart(3, "0")}/${number}.webp`
        : null,
    };
  };

  // What tokens stand for: bytes, whether special, and the id in the host's vocabulary.
  probe.vocabulary = async function () {
    const found = await probe.load("vocab");
    found.starts ||= offsets(found.columns.lengths);
    const { bytes, special, ids } = found.columns;
    return {
      bytes: (rank) => bytes.subarray(found.starts[rank - 1], found.starts[rank]),
      isSpecial: (rank) => special[rank - 1] === 1,
      id: (rank) => ids[rank - 1],
    };
  };
})(window.probe);
