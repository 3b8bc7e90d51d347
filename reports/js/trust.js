"use strict";
// The panels of a feature that say what its label is worth, where it fires, and what goes with it.
(function (probe) {
  const { el } = probe;
  const AGAINST = {
    sensitivity: "of its firings are where the label says",
    specificity: "of other rows are where it does not",
    precision: "of the rows where it says so are firings",
    hard_accuracy: "balanced, against rows that are like firings",
  };

  const meter = (share) =>
    el(
      "span",
      { class: "meter", "aria-hidden": "true" },
      el("i", { style: { width: `${Math.max(0, Math.min(1, share || 0)) * 100}%` } }),
    );

  // The label that was made, and how well it tells held-out firings from other rows.
  function label(feature) {
    const made = probe.labelOf(feature.id);
    if (!made.text || !feature.firings) return null;
    const scores = feature.label;
    const known = !Number.isNaN(made.fit);
    return el(
      "section",
      { class: "panel label-panel" },
      el("h2", { text: "Label" }),
      el("p", { class: made.isClear ? "said-label" : "said-label quiet" }, el("bdi", { text: made.text })),
      known &&
        el(
          "p",
          { class: "quiet" },
          probe.term("Balanced accuracy", "balanced_accuracy"),
          " ",
          el("b", { text: probe.percent(made.fit) }),
          ` (95 % interval ${probe.percent(scores.low)} to ${probe.percent(scores.high)}), on ${probe.number(scores.firings)} firings in contexts that it was not made from.`,
        ),
      known &&
        el(
          "table",
          { class: "numbers scores" },
          el(
            "tbody",
            {},
            Object.entries(AGAINST)
              .filter(([name]) => !Number.isNaN(scores[name]))
              .map(([name, text]) =>
                el(
                  "tr",
                  {},
                  el("td", { class: "bar" }, meter(scores[name])),
                  el("td", { text: probe.percent(scores[name]) }),
                  el("th", { scope: "row" }, probe.term(text, name)),
                ),
              ),
          ),
        ),
    );
  }

  // Where in its document, or in the image, the feature fires, beside all rows.
  function places(feature) {
    const all = probe.report.manifest.places;
    const rows = all.reduce((sum, count) => sum + count, 0);
    if (!feature.firings || all.length !== feature.places.length || all.filter(Boolean).length < 2)
      return null;
    const lift = feature.places.map((count, i) =>
      all[i] ? count / feature.firings / (all[i] / rows) : NaN,
    );
    const isText = probe.report.manifest.kind === "text";
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: isText ? "Where in a document" : "Where in the image" }),
      el("p", {
        class: "quiet",
        text: "Firings over what is usual for the place: 1 is as often as anywhere.",
      }),
      isText ? alongText(feature, lift) : overImage(feature, lift),
    );
  }

  function alongText(feature, lift) {
    const last = feature.places.length - [...lift].reverse().findIndex((value) => !Number.isNaN(value));
    const most = Math.max(2, ...lift.filter((value) => !Number.isNaN(value)));
    const from = (i) => (i === 0 ? 0 : 2 ** (i - 1));
    const name = (i) => (i < 2 ? `${from(i)}` : `${from(i)} to ${2 * from(i) - 1}`);
    return el(
      "div",
      { class: "along", role: "img", "aria-label": "Firings by place in the document" },
      lift.slice(0, last).map((value, i) =>
        el(
          "span",
          {
            tip: [
              `token ${name(i)} of a document`,
              `${probe.number(feature.places[i])} firings, ×${probe.number(value)}`,
            ],
          },
          el("i", { style: { height: `${((value || 0) / most) * 100}%` } }),
        ),
      ),
    );
  }

  function overImage(feature, lift) {
    const [height, width] = probe.report.manifest.layout.grid;
    let step = 1;
    while (Math.ceil(height / step) * Math.ceil(width / step) > 64) step++;
    const across = Math.ceil(width / step);
    const most = Math.max(2, ...lift.filter((value) => !Number.isNaN(value)));
    return el(
      "div",
      { class: "over", role: "img", "aria-label": "Firings by place", style: { "--across": across } },
      lift.map((value, i) =>
        el("span", {
          style: { "--level": ((value || 0) / most).toFixed(3) },
          tip: [
            `row ${Math.floor(i / across) + 1}, column ${(i % across) + 1}`,
            `${probe.number(feature.places[i])} firings, ×${probe.number(value)}`,
          ],
        }),
      ),
    );
  }

  // Dimensions of the site that go with the feature.
  function neurons(feature) {
    if (feature.neurons.length === 0) return null;
    const { rows, sites } = probe.report.manifest.neurons;
    return el(
      "section",
      { class: "panel" },
      el("h2", {}, probe.term("Neurons", "neuron"), " that go with it"),
      el("p", {
        class: "quiet",
        text: `Dimensions of ${(sites || []).join(", ")}, by correlation on ${probe.number(rows)} rows.`,
      }),
      el(
        "ul",
        { class: "related" },
        feature.neurons.map(([id, r]) =>
          el(
            "li",
            {},
            el("span", { class: "id", text: id }),
            meter(Math.abs(r)),
            el("span", { class: "figure", text: probe.number(r, 2) }),
          ),
        ),
      ),
    );
  }

  Object.assign(probe.panels, { label, places, neurons });
})(window.probe);
