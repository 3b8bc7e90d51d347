"use strict";
// Two inputs side by side: their features by difference of mean activation; one chosen colours both.
(function (probe) {
  const { el } = probe;
  const FEW = 60;
  const SETS = [
    ["all", "All", () => true],
    ["a", "Only in A", (entry) => entry.a && !entry.b],
    ["b", "Only in B", (entry) => entry.b && !entry.a],
    ["both", "In both", (entry) => entry.a && entry.b],
  ];

  // Every feature of the two: means over all rows of each input, and A's less B's; largest difference first.
  probe.compareInputs = function (first, second) {
    const [a, b] = [probe.featuresOf(first), probe.featuresOf(second)];
    return [...new Set([...a.keys(), ...b.keys()])]
      .map((feature) => {
        const found = { feature, a: a.get(feature), b: b.get(feature) };
        const [meanA, meanB] = [found.a?.mean || 0, found.b?.mean || 0];
        return { ...found, meanA, meanB, difference: meanA - meanB };
      })
      .sort((x, y) => Math.abs(y.difference) - Math.abs(x.difference) || x.feature - y.feature);
  };

  function side(letter, input, source, view, other, swap) {
    return el(
      "section",
      { class: "panel source" },
      el(
        "div",
        { class: "panel-head" },
        el(
          "h2",
          {},
          el("span", { class: `letter side-${letter.toLowerCase()}`, text: letter }),
          " ",
          el("a", { href: `#/input/${input.rank}` }, el("bdi", { text: source.title })),
        ),
        probe.pairChoice(`Another for ${letter}…`, null, other.rank, swap),
      ),
      el("p", {
        class: "quiet",
        text: `${source.kind ? `${source.kind} · ` : ""}${probe.countOf(input.positions.length, probe.rowWord(), probe.rowsWord())}`,
      }),
      view.element,
    );
  }

  function row(entry, most, chooser) {
    const share = Math.abs(entry.difference) / most;
    const dot = el("button", {
      class: "dot",
      type: "button",
      "aria-pressed": String(chooser.chosen() === entry.feature),
      "aria-label": `Colour both by feature ${entry.feature}`,
      "data-feature": entry.feature,
      tip: "Colour both inputs by this feature",
    });
    dot.addEventListener("click", () =>
      chooser.choose(chooser.chosen() === entry.feature ? null : entry.feature),
    );
    const line = el(
      "tr",
      { "data-feature": entry.feature },
      el("td", { class: "pick" }, dot),
      el(
        "th",
        { scope: "row" },
        el(
          "a",
          { href: `#/feature/${entry.feature}`, tip: () => probe.fullName(entry.feature) },
          el("span", { class: "id", text: `#${entry.feature}` }),
          " ",
          probe.nameOf(entry.feature, 4),
        ),
      ),
      el("td", { text: entry.a ? probe.number(entry.meanA) : "–" }),
      el("td", { text: entry.b ? probe.number(entry.meanB) : "–" }),
      el("td", {
        class: "difference",
        text: `${entry.difference > 0 ? "+" : ""}${probe.number(entry.difference)}`,
      }),
      el(
        "td",
        { class: "balance", "aria-hidden": "true" },
        el("i", {
          class: entry.difference > 0 ? "side-a" : "side-b",
          style: { width: `${share * 50}%`, [entry.difference > 0 ? "right" : "left"]: "50%" },
        }),
      ),
    );
    line.addEventListener("pointerenter", () => chooser.preview(entry.feature));
    line.addEventListener("pointerleave", () => chooser.preview(undefined));
    return line;
  }

  probe.pairPage = async function (route, list, number) {
    const other = list.at.get(Number(route.query.get("with")));
    if (other === undefined)
      return probe.lostPage(
        "No such input to compare with",
        "It is none of those for which all that fires was kept.",
        `#/input/${list.columns.rank[number]}`,
        "To the first input alone",
      );
    const [first, second] = await Promise.all([probe.explored(number), probe.explored(other)]);
    const [sourceA, sourceB] = await Promise.all([probe.sourceOf(first.rank), probe.sourceOf(second.rank)]);
    const given = route.query.get("set");
    const state = {
      f: probe.featureIn(route.query.get("f")),
      set: SETS.some(([name]) => name === given) ? given : "all",
    };
    const keep = () =>
      probe.keep(`input/${first.rank}`, {
        with: second.rank,
        f: state.f,
        set: state.set === "all" ? "" : state.set,
      });
    const entries = probe.compareInputs(first, second);
    const most = Math.abs(entries[0]?.difference) || 1;
    const views = [probe.inputView(first, sourceA), probe.inputView(second, sourceB)];
    const page = el("div", { class: "page input-page pair-page" });
    const legend = el("p", { class: "legend", role: "status" });
    const body = el("tbody");
    const after = el("p");
    const chooser = {
      chosen: () => state.f,
      choose(feature) {
        state.f = feature;
        keep();
        recolour();
      },
      preview(feature) {
        for (const view of views) view.paint(feature === undefined ? state.f : feature);
      },
    };
    function recolour() {
      chooser.preview(undefined);
      probe.pressDots(page, state.f);
      legend.replaceChildren(...probe.colourLegend(state.f, () => chooser.choose(null)));
    }
    function draw(count = FEW) {
      const [, , holds] = SETS.find(([name]) => name === state.set);
      const kept = entries.filter(holds);
      body.replaceChildren(...kept.slice(0, count).map((entry) => row(entry, most, chooser)));
      after.replaceChildren(
        kept.length > count
          ? el("button", {
              class: "plain",
              text: `show ${probe.number(kept.length - count)} more`,
              on: { click: () => draw(kept.length) },
            })
          : kept.length === 0
            ? el("span", { class: "quiet", text: "None." })
            : "",
      );
    }
    const cells = views.some((view) => view.cells.length);
    const headed = (text, tip) => el("th", { scope: "col" }, el("span", { tip, text }));
    page.append(
      el(
        "div",
        { class: "feature-head" },
        el(
          "div",
          {},
          el(
            "p",
            { class: "eyebrow" },
            el("a", { href: "#/inputs", text: "Inputs" }),
            ` · ${number + 1} and ${other + 1} of ${list.count}`,
          ),
          el("h1", { text: "Two inputs compared" }),
        ),
        el(
          "div",
          { class: "buttons" },
          el("a", {
            class: "button",
            href: `#/input/${second.rank}?with=${first.rank}`,
            text: "Swap A and B",
          }),
        ),
      ),
      cells && legend,
      el(
        "div",
        { class: "pair-sides" },
        side("A", first, sourceA, views[0], second, (rank) => probe.go(`input/${rank}?with=${second.rank}`)),
        side("B", second, sourceB, views[1], first, (rank) => probe.go(`input/${first.rank}?with=${rank}`)),
      ),
      el(
        "section",
        { class: "panel" },
        el(
          "div",
          { class: "panel-head" },
          el("h2", { text: "Features by difference" }),
          probe.options(
            "Which features",
            SETS.map(([name, text, holds]) => [
              name,
              `${text} ${probe.number(entries.filter(holds).length)}`,
            ]),
            state.set,
            (set) => {
              state.set = set;
              keep();
              draw();
            },
          ),
        ),
        el("p", {
          class: "quiet",
          text: `Mean activation over all ${probe.rowsWord()} of each input, zeros counted; from levels in 255 steps of each feature's maximum. Point at a line to see it in both; its dot keeps the colours.`,
        }),
        el(
          "div",
          { class: "wide-table" },
          el(
            "table",
            { class: "numbers pair-table" },
            el(
              "thead",
              {},
              el(
                "tr",
                {},
                el("th", { "aria-label": "Colour" }),
                headed("feature"),
                headed("A", "Mean activation in A"),
                headed("B", "Mean activation in B"),
                headed("A − B", "Difference of the means"),
                el("th", { class: "balance" }, el("span", { text: "more in A · in B" })),
              ),
            ),
            body,
          ),
        ),
        after,
      ),
    );
    draw();
    recolour();
    document.title = `${sourceA.title} and ${sourceB.title} · probe_sae`;
    return page;
  };
})(window.probe);
