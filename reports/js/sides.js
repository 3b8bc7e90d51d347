"use strict";
// Two dictionaries side by side: A, this report's, and B, the other one. Their columns, names of
// their features, and the counterpart on a feature's page.
(function (probe) {
  const { el } = probe;
  let sides = null;

  // Both sides' columns as functions of a feature's number.
  probe.sides = async function () {
    if (sides) return sides;
    const { columns } = await probe.load("compare");
    const lines = (name) => new TextDecoder().decode(columns[name]).split("\n");
    const signed = (value) => (value === -32768 ? NaN : value / 32767);
    const side = (name, firings, words, tokens, rows) => ({
      name: name.toUpperCase(),
      count: firings.length,
      firings: (id) => firings[id],
      density: (id) => firings[id] / (rows || 1),
      words: (id) => words[id] || "",
      tokens,
      pair: (id) => columns[`${name}_pair`][id] - 1,
      pairCosine: (id) => signed(columns[`${name}_pair_cosine`][id]),
      best: (id) => columns[`${name}_best`][id] - 1,
      bestCosine: (id) => signed(columns[`${name}_best_cosine`][id]),
    });
    const { compare, rows } = probe.report.manifest;
    const [wordsA, wordsB, linesB] = ["a_words", "b_words", "b_tokens"].map(lines);
    const tokensB = (id) => (linesB[id] || "").split("\u001f").slice(1); // as `probe.tokensOf` has A's
    sides = {
      a: side("a", probe.report.index.firings, wordsA, probe.tokensOf, rows),
      b: side("b", columns.b_firings, wordsB, tokensB, compare.b.rows),
    };
    return sides;
  };

  const saysSomething = (words) => words && !/^(unclear|too rare)/.test(words);

  // A feature's label in words, or its commonest tokens where a label says nothing.
  function nameIn(side, id) {
    const own = side.name === "A" ? probe.notes.get(id).label : "";
    const words = side.words(id);
    const chips = side
      .tokens(id)
      .slice(0, 3)
      .map((text) => probe.chip(text));
    if (own || saysSomething(words))
      return el("bdi", { class: own ? "own-label" : "words", text: own || words, tip: words });
    return el(
      "span",
      { class: "name", tip: words },
      chips.length ? chips : el("span", { class: "quiet", text: words.replace(/ \(.*/s, "") || "no tokens" }),
    );
  }

  const idIn = (side, id) =>
    side.name === "A"
      ? el("a", { class: "id", href: `#/feature/${id}`, text: `A #${id}` })
      : el("span", { class: "id", text: `B #${id}` });

  // The feature of the other dictionary that matches this one: a panel of a feature's page.
  probe.counterpart = async function (id) {
    const { compare } = probe.report.manifest;
    if (!compare || !probe.report.index.firings[id]) return null;
    const { a, b } = await probe.sides();
    const line = (other, cosine, text) =>
      el(
        "div",
        { class: "counterpart" },
        el("p", {}, idIn(b, other), " ", nameIn(b, other)),
        el("p", {
          class: "quiet",
          text: `${text} Cosine ${cosine.toFixed(3)}; fires on ${probe.percent(b.density(other))} of rows.`,
        }),
      );
    const [pair, best] = [a.pair(id), a.best(id)];
    const same = a.pairCosine(id) >= compare.thresholds[0];
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "In the other dictionary" }),
      same
        ? line(
            pair,
            a.pairCosine(id),
            pair === best && b.best(pair) === id
              ? "Nearest to each other both ways."
              : "Matched one to one; the nearest of one of them is another.",
          )
        : best >= 0 &&
            line(
              best,
              a.bestCosine(id),
              `No counterpart at ${compare.thresholds[0]} or more; the nearest is this one.`,
            ),
      el(
        "p",
        { class: "quiet" },
        el("a", { href: `#/compare?q=%23${id}&view=all`, text: "Show in the comparison" }),
      ),
    );
  };

  probe.inSides = { nameIn, idIn, saysSomething };
})(window.probe);
