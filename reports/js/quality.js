"use strict";
// How good a dictionary is: metrics, checks, the density of its features, training curves.
(function (probe) {
  const { el } = probe;
  const SHARES = new Set([
    "fraction_unexplained",
    "loss_recovered",
    "loss_recovered_zero",
    "kl_recovered",
    "kl_recovered_zero",
    "accuracy_kept",
    "dead_fraction",
    "dense_fraction",
  ]);
  const NAMES = {
    fraction_unexplained: "Fraction unexplained",
    l0: "Features firing on a row",
    loss_recovered: "Loss recovered",
    dead_fraction: "Dead features",
    dense_fraction: "Dense features",
    rows_evaluated: "Rows evaluated",
    test_mse: "Test error (MSE)",
    kl_recovered: "KL recovered",
    kl_recovered_zero: "KL recovered (zero)",
    accuracy_kept: "Predictions kept",
  };
  const nameOfMetric = (name) =>
    NAMES[name] || name.replace(/_/g, " ").replace(/^kl/, "KL").replace(".", ": ").replace(/^./, (char) => char.toUpperCase());
  const shownMetric = (name, value) => (SHARES.has(name) ? probe.percent(value) : probe.number(value));
  const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  // A value of the report's facts as one line of text.
  function line(value) {
    if (Array.isArray(value)) return value.length > 8 ? `${value.length} values` : value.map(line).join(", ");
    if (isTable(value))
      return Object.entries(value)
        .map(([key, item]) => `${key} ${line(item)}`)
        .join(" · ");
    return typeof value === "number" ? probe.number(value, 5) : String(value);
  }
  function checks(found) {
    return el(
      "ul",
      { class: "checks" },
      found.map((check) => {
        const state = check.holds === null ? "unknown" : check.holds ? "pass" : "warn";
        const bound = `${check.is_ceiling ? "At most" : "At least"} ${probe.percent(check.threshold)}`;
        return el(
          "li",
          { class: state },
          el("span", {
            class: "sign",
            "aria-label": { pass: "passes", warn: "warning", unknown: "not measured" }[state],
            text: { pass: "✓", warn: "!", unknown: "–" }[state],
          }),
          el(
            "div",
            {},
            el("b", { text: check.claim }),
            el("span", {
              class: "figure",
              text: check.holds === null ? "not measured" : probe.percent(check.value),
            }),
            el("p", { class: "quiet", text: `${bound}. ${check.why}` }),
          ),
        );
      }),
    );
  }

  function densityPlot(manifest) {
    const { edges, counts } = manifest.density_histogram;
    const share = (log) => probe.percent(10 ** log);
    const frame = el(
      "div",
      {},
      probe.bars({
        label: "Histogram of the features' densities",
        counts,
        low: edges[0],
        high: edges[edges.length - 1],
        height: 220,
        tick: share,
        xTicks: edges.filter((edge) => Number.isInteger(edge)),
        tip: (i) =>
          `${probe.number(counts[i])} features fire on ${share(edges[i])} to ${share(edges[i + 1])} of the rows`,
        caption: "share of rows on which a feature fires (log)",
      }),
    );
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h3", {}, probe.term("Density", "density"), " of the features"),
        probe.interactive(frame, "density"),
      ),
      frame,
      el("p", { class: "quiet", text: `${probe.number(manifest.dead)} dead features are not in the plot.` }),
    );
  }

  function trainingPlots(lines) {
    const names = ["fraction_unexplained", "loss", "l0", "dead_fraction"].filter(
      (name) => lines.filter((item) => Number.isFinite(item[name]) && Number.isFinite(item.step)).length > 1,
    );
    if (names.length === 0) return null;
    const frame = el(
      "div",
      { class: "curves" },
      names.map((name) =>
        el(
          "figure",
          {},
          el("figcaption", {}, probe.term(nameOfMetric(name), name)),
          probe.curve({
            label: `${nameOfMetric(name)} by training step`,
            xs: lines.map((item) => item.step),
            ys: lines.map((item) => item[name] ?? NaN),
            format: SHARES.has(name) ? probe.percent : probe.number,
          }),
        ),
      ),
    );
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h3", { text: "Training" }),
        probe.interactive(frame, "training"),
      ),
      frame,
      el("p", { class: "quiet", text: "By training step, on training batches." }),
    );
  }

  probe.quality = { line, isTable, nameOfMetric, shownMetric, checks, densityPlot, trainingPlots };
})(window.probe);
