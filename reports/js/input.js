"use strict";
// The page of one input: its text or picture, what fires at each place, its features, its codes.
(function (probe) {
  const { el } = probe;

  // A choice of another input to set beside this one; filled once things are quiet.
  probe.pairChoice = function (label, current, without, choose) {
    const select = el("select", { "aria-label": label }, el("option", { value: "", text: label }));
    probe.later(async () => {
      for (const [i, source] of (await probe.sources()).entries()) {
        if (source.rank === without) continue;
        const begin = source.context
          ? probe.textOf(source, 0, 24).replace(/\s+/g, " ").trim().slice(0, 40)
          : source.kind;
        select.append(el("option", { value: source.rank, text: `${i + 1} · ${source.title} · ${begin}` }));
      }
      select.value = current ?? "";
    });
    select.addEventListener("change", () => select.value !== "" && choose(Number(select.value)));
    return select;
  };

  function head(input, source, list) {
    const step = (number, ...said) => {
      const rank = list.columns.rank[number];
      return probe.step(rank === undefined ? null : `#/input/${rank}`, ...said);
    };
    const firings = input.features.length;
    const rows = input.positions.length;
    return el(
      "div",
      { class: "feature-head" },
      el(
        "div",
        {},
        el(
          "p",
          { class: "eyebrow" },
          el("a", { href: "#/inputs", text: "Inputs" }),
          ` · ${input.number + 1} of ${list.count}`,
        ),
        el("h1", {}, el("bdi", { text: source.title })),
        el(
          "p",
          { class: "quiet" },
          source.kind && [el("bdi", { text: source.kind }), " · "],
          rows > 1 && `${probe.number(rows)} ${probe.rowsWord()} · `,
          `${probe.countOf(list.columns.features[input.number], "feature fires", "features fire")}`,
          rows > 1 && `, ${probe.number(Number((firings / rows).toPrecision(3)))} on each ${probe.rowWord()}`,
        ),
      ),
      el(
        "div",
        { class: "buttons" },
        probe.pairChoice("Compare with…", null, input.rank, (other) =>
          probe.go(`input/${input.rank}?with=${other}`),
        ),
        step(input.number - 1, "‹", "Previous input", "p"),
        step(input.number + 1, "›", "Next input", "n"),
      ),
    );
  }

  // A feature number of the address, or null.
  probe.featureIn = function (text) {
    const feature = /^\d+$/.test(text || "") ? Number(text) : -1;
    return feature >= 0 && feature < probe.report.count ? feature : null;
  };

  // What the colours mean now, with a button to take a chosen feature back.
  probe.colourLegend = function (feature, clear) {
    if (feature === null)
      return [el("span", { class: "swatch counted" }), el("span", { text: "how many features fire" })];
    return [
      el("span", { class: "swatch fires" }),
      el(
        "a",
        { href: `#/feature/${feature}` },
        el("span", { class: "id", text: `#${feature}` }),
        " ",
        probe.nameOf(feature, 2),
      ),
      el("button", {
        class: "plain clear",
        "aria-label": "No feature: colour by how many fire",
        text: "×",
        on: { click: clear },
      }),
    ];
  };

  // Where a feature is nearest to its maximum: the place that is shown first.
  function strongestPlace(input) {
    let [place, most] = [input.positions[0], 0];
    for (let row = 0; row < input.positions.length; row++) {
      for (let j = input.starts[row]; j < input.starts[row + 1]; j++)
        if (Math.abs(input.levels[j]) > most)
          [place, most] = [input.positions[row], Math.abs(input.levels[j])];
    }
    return place;
  }

  probe.inputPage = async function (route) {
    const list = await probe.explorer();
    const number = list.at.get(Number(route.path[1]));
    if (number === undefined)
      return probe.lostPage(
        "No such input",
        `All that fires was kept for ${probe.number(list.count)} inputs drawn at random; this is none of them.`,
        "#/inputs",
        "To the inputs",
      );
    if (route.query.has("with")) return probe.pairPage(route, list, number);
    const [input, source] = await Promise.all([
      probe.explored(number),
      probe.sourceOf(list.columns.rank[number]),
    ]);
    const unit = probe.rowsWord();
    const one = probe.rowWord();
    const state = {
      f: probe.featureIn(route.query.get("f")),
      at: /^\d+$/.test(route.query.get("at") || "") ? Number(route.query.get("at")) : null,
      by: route.query.get("by") === "max" ? "max" : "sum",
    };
    const strongest = strongestPlace(input);
    const keep = () =>
      probe.keep(`input/${input.rank}`, { ...state, by: state.by === "sum" ? "" : state.by });
    const page = el("div", { class: "page input-page" });
    const legend = el("p", { class: "legend", role: "status" });
    const atPlace = el("section", { class: "panel at-place", "aria-live": "off" });
    const whole = el("div");

    const chooser = {
      chosen: () => state.f,
      choose(feature) {
        state.f = feature;
        keep();
        recolour();
      },
      preview: (feature) => view.paint(feature === undefined ? state.f : feature),
    };
    function recolour() {
      view.paint(state.f);
      heat?.press(state.f);
      probe.pressDots(page, state.f);
      legend.replaceChildren(
        ...probe.colourLegend(state.f, () => chooser.choose(null)),
        el("span", {
          class: "hint",
          text: `Point at a ${one} to see what fires there; click keeps it; arrow keys walk.`,
        }),
      );
    }
    function showPlace(cell) {
      if (!cell) return;
      const firing = probe.firingAt(input, cell.places).length;
      const isRecorded = cell.places.some((place) => input.rowAt.has(place));
      atPlace.replaceChildren(
        el(
          "h2",
          {},
          source.context
            ? [
                "At ",
                ...cell.places.map((place) =>
                  probe.chip(probe.visible(probe.tokenText(source.vocabulary, source.context.tokens[place]))),
                ),
              ]
            : `At the ${cell.name}`,
        ),
        el("p", {
          class: "quiet",
          text: isRecorded
            ? `${probe.countOf(firing, "feature fires", "features fire")}${source.context ? `, token ${probe.number(source.context.start + cell.places[0])} of the document` : ""}`
            : "Not recorded.",
        }),
        ...probe.placeLines(input, cell, chooser).filter(Boolean),
      );
    }
    function setPlace(place) {
      state.at = place;
      keep();
      view.mark(place);
      heat?.mark(place);
      showPlace(view.cellAt(place));
    }
    function drawWhole() {
      whole.replaceChildren(...probe.rankedLines(input, state.by, unit, chooser).filter(Boolean));
    }

    const view = probe.inputView(input, source, {
      point: (cell) => {
        const shown = cell || view.cellAt(state.at ?? strongest);
        heat?.mark(shown?.places[0]);
        showPlace(shown);
      },
      choose: (cell) => setPlace(cell.places[0]),
    });
    const heat = probe.inputHeat(input, view, unit, {
      choose(feature, place) {
        if (place !== null) setPlace(place);
        chooser.choose(place === null && state.f === feature ? null : feature);
      },
    });
    drawWhole();
    const isOneRow = view.cells.length === 0;
    page.append(
      head(input, source, list),
      el(
        "div",
        { class: "split" },
        el(
          "div",
          { class: "left" },
          el("section", { class: "panel source" }, !isOneRow && legend, view.element),
          heat?.element,
        ),
        el(
          "div",
          { class: "right" },
          !isOneRow && atPlace,
          el(
            "section",
            { class: "panel whole" },
            el(
              "div",
              { class: "panel-head" },
              el("h2", { text: "In the whole input" }),
              probe.options(
                "Ranked by",
                [
                  ["sum", "sum", `Sum of the feature's levels over the ${unit}`],
                  ["max", "max", "The feature's largest level in this input"],
                ],
                state.by,
                (by) => {
                  state.by = by;
                  keep();
                  drawWhole();
                },
              ),
            ),
            whole,
          ),
        ),
      ),
    );
    recolour();
    const start = view.cellAt(state.at) ? state.at : strongest;
    view.mark(start);
    heat?.mark(start);
    showPlace(view.cellAt(start));
    probe.walkInputs(list, number);
    document.title = `${source.title} · inputs · probe_sae`;
    return page;
  };

  // n and p go to the next and the previous input.
  probe.walkInputs = function (list, number) {
    const keys = (event) => {
      if (
        event.target.closest("input, textarea, select, dialog") ||
        event.ctrlKey ||
        event.metaKey ||
        event.altKey
      )
        return;
      const rank = list.columns.rank[number + ({ n: 1, p: -1 }[event.key] || NaN)];
      if (rank !== undefined) location.hash = `#/input/${rank}`;
    };
    addEventListener("keydown", keys);
    probe.leave = () => removeEventListener("keydown", keys);
  };
})(window.probe);
