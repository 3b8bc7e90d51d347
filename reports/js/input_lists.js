"use strict";
// Lists of features beside an input: those at one place, and those of the whole input.
(function (probe) {
  const { el } = probe;
  const FEW = 30;

  // A feature in such a list: a dot that colours the input by it, its name and link, a level, a number.
  // The dot is pressed while the feature is chosen; pointing at the line shows the colours for a moment.
  function line({ feature, level, figure, tip }, chooser) {
    const dot = el("button", {
      class: "dot",
      type: "button",
      "aria-pressed": String(chooser.chosen() === feature),
      "aria-label": `Colour by feature ${feature}`,
      "data-feature": feature,
      tip: "Colour the input by this feature",
    });
    dot.addEventListener("click", () => chooser.choose(chooser.chosen() === feature ? null : feature));
    const item = el(
      "li",
      {},
      dot,
      el(
        "a",
        { href: `#/feature/${feature}`, tip: () => probe.fullName(feature) },
        el("span", { class: "id", text: `#${feature}` }),
        probe.nameOf(feature, 3),
      ),
      el(
        "span",
        { class: `meter${level < 0 ? " cold" : ""}`, "aria-hidden": "true" },
        el("i", { style: { width: `${Math.min(1, Math.abs(level)) * 100}%` } }),
      ),
      el("span", { class: "figure", tip, text: figure }),
    );
    item.addEventListener("pointerenter", () => chooser.preview(feature));
    item.addEventListener("pointerleave", () => chooser.preview(undefined));
    return item;
  }

  // The list itself; a long one is cut, with a button for the rest.
  probe.featureLines = function (entries, chooser, label) {
    const list = el(
      "ul",
      { class: "related firing", "aria-label": label },
      entries.slice(0, FEW).map((entry) => line(entry, chooser)),
    );
    const rest = entries.length - FEW;
    const more =
      rest > 0 &&
      el("button", {
        class: "plain",
        text: `show ${probe.number(rest)} more`,
        on: {
          click: (event) => {
            event.currentTarget.remove();
            list.append(...entries.slice(FEW).map((entry) => line(entry, chooser)));
          },
        },
      });
    return [list, more];
  };

  // Press the dots of the feature chosen, wherever they stand.
  probe.pressDots = function (within, feature) {
    for (const dot of within.querySelectorAll(".dot"))
      dot.setAttribute("aria-pressed", String(Number(dot.dataset.feature) === feature));
  };

  // What fires at one place.
  probe.placeLines = function (input, cell, chooser) {
    const firing = probe.firingAt(input, cell.places);
    return probe.featureLines(
      firing.map(([feature, level]) => {
        const value = probe.number(level * input.scale(feature));
        return {
          feature,
          level,
          figure: value,
          tip: `activation ≈ ${value}: ${probe.percent(level)} of the feature's maximum`,
        };
      }),
      chooser,
      `Features at ${cell.name}`,
    );
  };

  // The features of the whole input, by "sum" or "max" of their levels.
  probe.rankedFeatures = (input, by) =>
    [...probe.featuresOf(input).values()].sort(
      (a, b) => Math.abs(b[by]) - Math.abs(a[by]) || b.sum - a.sum || a.feature - b.feature,
    );

  probe.rankedLines = function (input, by, unit, chooser) {
    const ranked = probe.rankedFeatures(input, by);
    const most = Math.abs(ranked[0]?.[by]) || 1;
    return probe.featureLines(
      ranked.map((entry) => ({
        feature: entry.feature,
        level: entry[by] / (by === "max" ? 1 : most),
        figure: by === "max" ? `${Math.round(entry.max * 100)} %` : probe.number(entry.sum, 2),
        tip: [
          `fires on ${probe.number(entry.rows)} of ${probe.number(input.positions.length)} ${unit}`,
          `at most ≈ ${probe.number(entry.max * input.scale(entry.feature))}: ${probe.percent(entry.max)} of its maximum`,
          `levels sum to ${probe.number(entry.sum)}`,
        ],
      })),
      chooser,
      "Features of the whole input",
    );
  };

  // A switch between a few options, one of them on.
  probe.options = function (label, options, current, choose) {
    const buttons = options.map(([value, text, tip]) =>
      el("button", {
        type: "button",
        "aria-pressed": String(value === current),
        "data-value": value,
        tip,
        text,
        on: {
          click: (event) => {
            for (const button of buttons)
              button.setAttribute("aria-pressed", String(button === event.currentTarget));
            choose(value);
          },
        },
      }),
    );
    return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  };
})(window.probe);
