"use strict";
// The sampled inputs as the pages use them: which there are, and all that fires on one of them.
(function (probe) {
  // All of them: `count`, `columns` (rank, rows, firings, features), `at` (rank -> number).
  probe.explorer = async function () {
    const list = await probe.load("explore/list");
    if (!list.at) {
      list.count = list.columns.rank.length;
      list.at = new Map([...list.columns.rank].map((rank, i) => [rank, i]));
    }
    return list;
  };

  // The activation that stands for the highest level of a feature.
  const scaleOf = (list, feature) => (list.columns.scales || probe.report.index.max)[feature];

  function offsets(counts) {
    const found = new Uint32Array(counts.length + 1);
    for (let i = 0; i < counts.length; i++) found[i + 1] = found[i] + counts[i];
    return found;
  }

  // One input, by its number: the positions of its rows, and each row's features with their levels.
  probe.explored = async function (number) {
    const list = await probe.explorer();
    const shard = list.shards.findLastIndex((first) => first <= number);
    const found = await probe.load(`explore/${String(shard).padStart(3, "0")}`);
    const { positions, counts, features, levels, rows } = found.columns;
    found.rowStarts ||= offsets(rows);
    found.starts ||= offsets(counts);
    const at = number - list.shards[shard];
    const [first, last] = [found.rowStarts[at], found.rowStarts[at + 1]];
    const [from, to] = [found.starts[first], found.starts[last]];
    return {
      number,
      rank: list.columns.rank[number],
      positions: positions.subarray(first, last),
      starts: found.starts.subarray(first, last + 1).map((start) => start - from),
      features: features.subarray(from, to),
      levels: levels.subarray(from, to),
      rowAt: new Map([...positions.subarray(first, last)].map((position, row) => [position, row])),
      scale: (feature) => scaleOf(list, feature),
    };
  };

  // What fires on some places, strongest first: [feature, level], a share of its maximum.
  probe.firingAt = function (input, places) {
    const strongest = new Map();
    for (const place of places) {
      const row = input.rowAt.get(place);
      if (row === undefined) continue;
      for (let j = input.starts[row]; j < input.starts[row + 1]; j++) {
        const level = input.levels[j] / 255;
        if (Math.abs(level) > Math.abs(strongest.get(input.features[j]) || 0))
          strongest.set(input.features[j], level);
      }
    }
    return [...strongest].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]) || a[0] - b[0]);
  };

  // Where one feature fires: position -> level. Without a feature: position -> how many fire there.
  probe.levelsOf = function (input, feature) {
    const found = new Map();
    for (let row = 0; row < input.positions.length; row++) {
      const [from, to] = [input.starts[row], input.starts[row + 1]];
      if (feature === null) found.set(input.positions[row], to - from);
      else {
        for (let j = from; j < to; j++)
          if (input.features[j] === feature) found.set(input.positions[row], input.levels[j] / 255);
      }
    }
    return found;
  };

  // Each feature of an input: its sum and its largest level, on how many rows it fires, its mean activation
  // over all rows of the input, zeros counted.
  probe.featuresOf = function (input) {
    const found = new Map();
    for (let j = 0; j < input.features.length; j++) {
      const feature = input.features[j];
      const level = input.levels[j] / 255;
      let entry = found.get(feature);
      if (!entry) found.set(feature, (entry = { feature, sum: 0, max: 0, rows: 0, net: 0 }));
      entry.sum += Math.abs(level);
      entry.net += level;
      entry.rows += 1;
      if (Math.abs(level) > Math.abs(entry.max)) entry.max = level;
    }
    const rows = input.positions.length || 1;
    for (const entry of found.values()) entry.mean = (entry.net * input.scale(entry.feature)) / rows;
    return found;
  };

  const isText = () => probe.report.manifest.kind === "text";

  // The input: its context or picture, a title, and the beginning of its text or its class.
  probe.sourceOf = async function (rank) {
    const vocabulary = await probe.vocabulary();
    if (!isText()) {
      const picture = await probe.picture(rank);
      const label = picture.label ? probe.visible(probe.tokenText(vocabulary, picture.label)) : "";
      const kind = /^\d+$/.test(label) ? `class ${label}` : label;
      return { rank, picture, vocabulary, title: probe.visible(picture.name), kind, group: picture.label };
    }
    const context = await probe.context(rank);
    return {
      rank,
      context,
      vocabulary,
      title: probe.visible(context.document),
      kind: context.start ? `from token ${probe.number(context.start)}` : "from its beginning",
      group: rank,
    };
  };

  // What rows are called; where an image is one row there is nothing to call patches.
  const hasPlaces = () => isText() || Math.max(...probe.report.manifest.layout.grid) > 1;
  probe.rowsWord = () => (isText() ? "tokens" : hasPlaces() ? "patches" : "rows");
  probe.rowWord = () => (isText() ? "token" : hasPlaces() ? "patch" : "row");

  probe.countOf = (count, one, many) => `${probe.number(count)} ${count === 1 ? one : many}`;

  // The text of a context, special tokens left out.
  probe.textOf = ({ context, vocabulary }, from = 0, to = context.tokens.length) =>
    probe
      .groups(context, vocabulary, from, to)
      .filter((group) => !group.special)
      .map((group) => group.text)
      .join("");

  // Every input's source, in order; shards load once.
  probe.sources = async function () {
    const { columns } = await probe.explorer();
    return Promise.all([...columns.rank].map(probe.sourceOf));
  };

  // What kind of token it is, for colours: a number into probe.TOKEN_KINDS.
  probe.TOKEN_KINDS = ["word", "part of a word", "number", "punctuation", "space", "line break", "other"];
  probe.tokenKind = function (text) {
    if (/^\s*$/.test(text)) return /\n/.test(text) ? 5 : 4;
    if (/^\s+\p{L}[\p{L}\p{M}'’]*$/u.test(text)) return 0;
    if (/^[\p{L}\p{M}'’]+$/u.test(text)) return 1;
    if (/^\s*[\p{N}.,]*\p{N}[\p{N}.,]*$/u.test(text)) return 2;
    return /^\s*[\p{P}\p{S}\s]+$/u.test(text) ? 3 : 6;
  };

  // A feature's whole label and its tokens, for where there is room for the beginning alone.
  probe.fullName = (feature) => [
    `#${feature} ${probe.notes.get(feature).label || probe.labelOf(feature).text}`,
    probe.tokensOf(feature).join(" · "),
  ];

  // A text that links to an example's place in its input, if the explorer has that.
  probe.inputLink = (list, example, feature, text) => {
    const words = probe.el("bdi", { text: text || (list?.at.has(example.context) ? "whole input" : "") });
    if (!list?.at.has(example.context)) return words;
    return probe.el(
      "a",
      {
        href: `#/input/${example.context}?f=${feature.id}&at=${example.position}`,
        tip: "All that fires on this input",
      },
      words,
    );
  };

  // Say which page has no such thing.
  probe.lostPage = (title, text, href, link) =>
    probe.el(
      "section",
      { class: "problem" },
      probe.el("h1", { text: title }),
      probe.el("p", { text }),
      probe.el("p", {}, probe.el("a", { href, text: link })),
    );
})(window.probe);
