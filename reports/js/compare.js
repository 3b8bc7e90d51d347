"use strict";
// The page that compares this dictionary, A, with another one of the same site, B.
(function (probe) {
  const { el } = probe;
  const SHARES = new Set(["fraction_unexplained", "loss_recovered", "dead_fraction", "dense_fraction"]);
  const METRICS = [
    ["fraction_unexplained", "Fraction unexplained"],
    ["loss_recovered", "Loss recovered"],
    ["l0", "Features firing on a row"],
    ["cosine", "Cosine of row and reconstruction"],
    ["dead_fraction", "Dead features"],
    ["dense_fraction", "Dense features"],
    ["rows_evaluated", "Rows evaluated"],
  ];
  const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  function facts(compare) {
    const sae = (head, name) => (isTable(head.sae) ? head.sae[name] : undefined);
    const seed = (head) => sae(head, "seed") ?? sae(head, "trainer")?.seed;
    const rows = [
      ["Architecture", (head) => sae(head, "arch")],
      ["Features", (head) => probe.number(head.features)],
      ["of them fire", (head) => probe.number(head.alive)],
      ["k", (head) => sae(head, "k")],
      ["Seed", seed],
      ["Rows trained on", (head) => sae(head, "trainer")?.rows],
      ["Rows analysed", (head) => head.rows],
    ];
    return rows
      .map(([text, read]) => [text, read(compare.a), read(compare.b)])
      .filter(([, a, b]) => (a ?? b) !== undefined && (a ?? b) !== null)
      .map(([text, a, b]) => [
        text,
        ...[a, b].map((v) => (typeof v === "number" ? probe.number(v) : (v ?? "–"))),
      ]);
  }

  // A metric of one dictionary with its interval.
  function measured(head, name) {
    const value = head.metrics[name];
    const shown = (v) => (SHARES.has(name) ? probe.percent(v) : probe.number(v, 4));
    const interval = head.metrics.intervals?.[name];
    return el(
      "td",
      {},
      el("b", { text: typeof value === "number" ? shown(value) : "–" }),
      Array.isArray(interval) &&
        el("span", {
          class: "interval",
          tip: probe.report.manifest.definitions.intervals || "95 % interval",
          text: `${shown(interval[0])} to ${shown(interval[1])}`,
        }),
    );
  }

  function sideBySide(compare) {
    const { a, b } = compare;
    const known = METRICS.filter(([name]) => [a, b].some((head) => typeof head.metrics[name] === "number"));
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "Side by side" }),
      el(
        "table",
        { class: "numbers sides" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("td"),
            ["A · this one", "B · the other"].map((text) => el("th", { scope: "col", text })),
          ),
        ),
        el(
          "tbody",
          {},
          facts(compare).map(([text, x, y]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row", text }),
              [x, y].map((value) => el("td", {}, el("bdi", { text: value }))),
            ),
          ),
          known.map(([name, text]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, probe.term(text, name)),
              measured(a, name),
              measured(b, name),
            ),
          ),
        ),
      ),
      known.length === 0 && el("p", { class: "quiet", text: "Neither was evaluated." }),
      !compare.same_rows &&
        el("p", {
          class: "quiet warned",
          text: "Analysed on different rows: figures of A and B are not of the same data. Cosines of directions do not depend on it.",
        }),
    );
  }

  function histogram(compare, side, other) {
    const head = compare[side];
    const [low, high] = [compare.edges[0], compare.edges[compare.edges.length - 1]];
    const edge = (i) => probe.number(compare.edges[i], 3);
    return el(
      "section",
      {},
      el("h3", {
        text: `Of each feature of ${side.toUpperCase()}: the best cosine in ${other.toUpperCase()}`,
      }),
      probe.bars({
        label: `Best cosines of the features of ${side.toUpperCase()} in ${other.toUpperCase()}`,
        counts: head.best_histogram,
        low,
        high,
        height: 190,
        tip: (i) => `${probe.number(head.best_histogram[i])} features from ${edge(i)} to ${edge(i + 1)}`,
      }),
      el("p", {
        class: "quiet",
        text: `${compare.thresholds
          .map((bound) => `${probe.percent(head.found_again[bound])} have one at ${bound} or more`)
          .join(", ")}; median ${probe.number(head.median_best)}.`,
      }),
    );
  }

  // In words, for the sentences at the top and the buttons over the table.
  function counts(compare, bound) {
    const { a, b } = compare;
    const near = (head) => head.found_again_count[bound] - head.matched[bound];
    const only = (head) => head.alive - head.found_again_count[bound];
    return { both: a.matched[bound], near: [near(a), near(b)], only: [only(a), only(b)] };
  }

  function lead(compare) {
    const [bound] = compare.thresholds;
    const { both, near, only } = counts(compare, bound);
    const n = (value) => el("b", { text: probe.number(value) });
    return el(
      "p",
      { class: "lead" },
      n(both),
      ` features are in both: matched one to one, with a cosine of ${bound} or more of the decoder directions. `,
      n(near[0]),
      " of A and ",
      n(near[1]),
      " of B come as near to one that is already another's counterpart. ",
      n(only[0]),
      " are only in A, ",
      n(only[1]),
      " only in B.",
    );
  }

  function choice(label, options, current, choose) {
    const buttons = options.map(([value, text]) =>
      el("button", {
        type: "button",
        "aria-pressed": String(value === current),
        "data-value": value,
        text,
        on: {
          click: (event) => {
            for (const other of buttons)
              other.setAttribute("aria-pressed", String(other === event.currentTarget));
            choose(value);
          },
        },
      }),
    );
    return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  }

  function browser(compare, found, route) {
    const given = (name, allowed) =>
      allowed.includes(route.query.get(name)) ? route.query.get(name) : allowed[0];
    const bounds = compare.thresholds.map(String);
    const state = {
      view: given("view", ["both", "near", "a", "b", "all"]),
      at: given("at", bounds),
      q: route.query.get("q") || "",
      sort: route.query.get("sort") || "-cosine",
    };
    const count = el("span", { class: "quiet count", role: "status" });
    const nothing = el("p", {
      class: "nothing",
      hidden: true,
      text: "No feature matches. Clear the search.",
    });
    const table = probe.pairTable(found, state, (rows) => {
      count.textContent = `${probe.number(rows)} ${rows === 1 ? "row" : "rows"}`;
      nothing.hidden = rows > 0;
      probe.keep("compare", {
        ...state,
        view: state.view === "both" ? "" : state.view,
        at: state.at === bounds[0] ? "" : state.at,
        sort: state.sort === "-cosine" ? "" : state.sort,
      });
    });
    const search = el("input", {
      type: "search",
      class: "pair-search",
      value: state.q,
      placeholder: "Search labels, tokens, #number",
      "aria-label": "Search the features of both dictionaries",
      spellcheck: "false",
    });
    search.addEventListener("input", () => table.change({ q: search.value }));
    const views = [
      ["both", "In both"],
      ["near", "Near another's"],
      ["a", "Only in A"],
      ["b", "Only in B"],
      ["all", "All"],
    ];
    probe.leave = table.stop;
    return el(
      "section",
      { class: "pair-browser" },
      el(
        "div",
        { class: "filters" },
        choice("Which features", views, state.view, (view) => table.change({ view })),
        el("span", {}, "at cosine"),
        choice(
          "Least cosine",
          bounds.map((bound) => [bound, bound]),
          state.at,
          (at) => table.change({ at }),
        ),
        search,
        count,
      ),
      table.scroller,
      nothing,
    );
  }

  probe.compare = async function (route) {
    const { compare, site } = probe.report.manifest;
    if (!compare)
      return el(
        "section",
        { class: "problem" },
        el("h1", { text: "No such page" }),
        el("p", { text: "This report compares nothing. Write it with --compare and another analysis." }),
        el("p", {}, el("a", { href: "#/", text: "To the overview" })),
      );
    const found = await probe.sides();
    document.title = "Comparison · probe_sae";
    return el(
      "div",
      { class: "page compare" },
      el("p", { class: "eyebrow" }, "Two dictionaries of ", el("bdi", { text: site || "one site" })),
      el("h1", { text: "What they have in common" }),
      lead(compare),
      el(
        "div",
        { class: "columns" },
        sideBySide(compare),
        el(
          "section",
          { class: "panel both-ways" },
          el("h2", { text: "How close they come" }),
          histogram(compare, "a", "b"),
          histogram(compare, "b", "a"),
        ),
      ),
      el("h2", { class: "pairs-title", text: "Feature by feature" }),
      el("p", {
        class: "quiet",
        text: `Cosines are those of decoder directions${compare.either_sign ? ", a direction and its opposite taken as the same" : ""}. Counterparts are matched from the largest cosine down, each feature once. A larger dictionary splits features: then several come near one counterpart. Features that fire on no analysed row are left out.`,
      }),
      browser(compare, found, route),
    );
  };
})(window.probe);
