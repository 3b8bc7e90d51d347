"use strict";
// Metrics of the dictionary: the main ones as cards, all of them in a table beside baselines.
(function (probe) {
  const { el } = probe;
  const { isTable, nameOfMetric, shownMetric } = probe.quality;
  const MAIN = ["fraction_unexplained", "loss_recovered", "accuracy_kept", "l0", "dead_fraction", "dense_fraction"];
  const BESIDE = ["intervals", "baselines"];
  const BASELINES = ["mean", "untrained", "random", "pca"];

  // Every number of the metrics by its full name, such as "kl.spliced".
  function flat(table, before = "") {
    return Object.entries(table).flatMap(([name, value]) => {
      if (BESIDE.includes(name) && !before) return [];
      if (isTable(value)) return flat(value, `${before}${name}.`);
      return typeof value === "number" ? [[`${before}${name}`, value]] : [];
    });
  }

  const interval = (metrics, name) => {
    const found = (metrics.intervals || {})[name];
    return Array.isArray(found) && found.every(Number.isFinite) ? found : null;
  };

  function card(metrics, name) {
    const bounds = interval(metrics, name);
    const beside = ["pca", "untrained"]
      .map((baseline) => [baseline, metrics.baselines?.[baseline]?.[name]])
      .filter(([, value]) => typeof value === "number" && name !== "l0");
    return el(
      "div",
      {},
      el("dt", {}, probe.term(nameOfMetric(name), name)),
      el("dd", { text: shownMetric(name, metrics[name]) }),
      el("dd", {
        class: "quiet",
        text: bounds ? `${shownMetric(name, bounds[0])} to ${shownMetric(name, bounds[1])}` : "",
      }),
      beside.length > 0 &&
        el("dd", {
          class: "quiet",
          text: beside
            .map(([baseline, value]) => `${baseline === "pca" ? "PCA" : baseline} ${shownMetric(name, value)}`)
            .join(", "),
        }),
    );
  }

  function cards(metrics) {
    const names = MAIN.filter((name) => typeof metrics[name] === "number");
    const rest = flat(metrics)
      .map(([name]) => name)
      .filter((name) => name === "test_mse");
    return el(
      "dl",
      { class: "cards" },
      [...names, ...rest].map((name) => card(metrics, name)),
    );
  }

  // All metrics: this dictionary with its interval, and each baseline.
  function table(metrics) {
    const place = ([name]) => (MAIN.indexOf(name) + 1 || 99);
    const found = flat(metrics).sort((a, b) => place(a) - place(b));
    if (found.length < 4) return null;
    const given = Object.keys(metrics.baselines || {});
    const known = (name) => (BASELINES.indexOf(name) + 1 || 99);
    const baselines = given.sort((a, b) => known(a) - known(b) || a.localeCompare(b));
    const flats = baselines.map((name) => new Map(flat(metrics.baselines[name])));
    const cell = (name, value) =>
      el("td", { text: typeof value === "number" ? shownMetric(name, value) : "–" });
    return el(
      "section",
      { class: "panel metrics-panel" },
      el("h3", { text: baselines.length ? "All metrics, beside baselines" : "All metrics" }),
      el("p", {
        class: "quiet",
        text: "Intervals are of 95 %, by resampling contexts; they say nothing of other trainings.",
      }),
      el(
        "div",
        { class: "wide-table", tabindex: "0", role: "region", "aria-label": "All metrics" },
        el(
          "table",
          { class: "numbers metrics" },
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              el("th", { scope: "col", text: "metric" }),
              el("th", { scope: "col", text: "this dictionary" }),
              el("th", { scope: "col", text: "95 % interval" }),
              baselines.map((name) => el("th", { scope: "col", text: name === "pca" ? "PCA" : name })),
            ),
          ),
          el(
            "tbody",
            {},
            found.map(([name, value]) => {
              const bounds = interval(metrics, name);
              return el(
                "tr",
                {},
                el("th", { scope: "row" }, probe.term(nameOfMetric(name), name)),
                el("td", {}, el("b", { text: shownMetric(name, value) })),
                el("td", {
                  class: "quiet",
                  text: bounds ? `${shownMetric(name, bounds[0])} – ${shownMetric(name, bounds[1])}` : "",
                }),
                flats.map((values) => cell(name, values.get(name))),
              );
            }),
          ),
        ),
      ),
    );
  }

  probe.metrics = { cards, table };
})(window.probe);
