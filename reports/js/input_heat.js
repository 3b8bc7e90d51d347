"use strict";
// The codes of one input as a heat map: its most active features by its rows.
(function (probe) {
  const { el } = probe;
  const SHOWN = 40;

  // `on.choose(feature, place)` on a click or Enter. Returns { element, mark(place), press(feature) }.
  probe.inputHeat = function (input, view, unit, on) {
    const ranked = probe.rankedFeatures(input, "sum").slice(0, SHOWN);
    const [width, height] = [input.positions.length, ranked.length];
    if (width < 2 || height === 0) return null;
    const lineOf = new Map(ranked.map(({ feature }, i) => [feature, i]));
    const levels = new Float32Array(width * height);
    const pixels = new Uint8ClampedArray(width * height * 4);
    for (let row = 0; row < width; row++) {
      for (let j = input.starts[row]; j < input.starts[row + 1]; j++) {
        const line = lineOf.get(input.features[j]);
        if (line === undefined) continue;
        const level = input.levels[j] / 255;
        levels[line * width + row] = level;
        pixels.set(
          [...(level < 0 ? [60, 120, 210] : [240, 124, 0]), Math.round(255 * Math.abs(level) ** 0.7)],
          (line * width + row) * 4,
        );
      }
    }
    const canvas = el("canvas", {
      class: "codes",
      width,
      height,
      tabindex: "0",
      role: "img",
      "aria-label": `Heat map: the ${height} most active features on ${width} ${unit}. Arrow keys move, Enter chooses.`,
      "aria-describedby": "heat-said",
    });
    canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    const column = el("i", { class: "heat-column", hidden: true });
    const cell = el("i", { class: "heat-cell", hidden: true });
    const said = el("p", { class: "quiet", id: "heat-said", role: "status" });
    const usual = "Point at a place to read it, or walk with the arrow keys; click or Enter chooses it.";
    said.textContent = usual;
    let cursor = null;

    function read([row, line]) {
      cursor = [row, line];
      Object.assign(cell.style, {
        left: `${(row / width) * 100}%`,
        top: `${(line / height) * 100}%`,
        width: `${100 / width}%`,
        height: `${100 / height}%`,
      });
      cell.hidden = false;
      const { feature } = ranked[line];
      const level = levels[line * width + row];
      const place = input.positions[row];
      said.replaceChildren(
        el("b", { text: `#${feature}` }),
        " ",
        probe.nameOf(feature, 2),
        ` on ${view.cellAt(place)?.name || place}: `,
        level
          ? `≈ ${probe.number(level * input.scale(feature))} (${probe.percent(level)} of maximum)`
          : "does not fire",
      );
    }
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      const at = (place, start, size, count) =>
        Math.max(0, Math.min(count - 1, Math.floor(((place - start) / size) * count)));
      return [at(event.clientX, box.left, box.width, width), at(event.clientY, box.top, box.height, height)];
    };
    const pick = () => cursor && on.choose(ranked[cursor[1]].feature, input.positions[cursor[0]]);
    canvas.addEventListener("pointermove", (event) => read(under(event)));
    canvas.addEventListener("pointerleave", () => {
      cell.hidden = true;
      said.textContent = usual;
    });
    canvas.addEventListener("click", (event) => {
      read(under(event));
      pick();
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Enter" || event.key === " ") pick();
      else if (step) {
        const [row, line] = cursor || [0, 0];
        const next = cursor ? [row + step[0], line + step[1]] : [0, 0];
        if (next[0] >= 0 && next[0] < width && next[1] >= 0 && next[1] < height) read(next);
      } else return;
      event.preventDefault();
    });

    const labels = ranked.map(({ feature }) =>
      el(
        "button",
        {
          type: "button",
          class: "heat-label",
          "aria-pressed": "false",
          "data-feature": feature,
          tip: () => probe.fullName(feature),
          on: { click: () => on.choose(feature, null) },
        },
        el("span", { class: "id", text: `#${feature}` }),
        probe.nameOf(feature, 1),
      ),
    );
    const element = el(
      "section",
      { class: "panel heat-panel" },
      el("h2", { text: "Codes" }),
      el("p", {
        class: "quiet",
        text: `The ${height} most active features, one line each, on the ${probe.number(width)} ${unit} in order. Colour is the share of the feature's own maximum.`,
      }),
      el(
        "div",
        { class: "heat-grid", style: { "--lines": height } },
        el("div", { class: "heat-labels" }, labels),
        el("div", { class: "heat-frame" }, canvas, column, cell),
      ),
      said,
    );
    return {
      element,
      mark(place) {
        const row = input.rowAt.get(place);
        column.hidden = row === undefined;
        if (row === undefined) return;
        Object.assign(column.style, { left: `${(row / width) * 100}%`, width: `${100 / width}%` });
      },
      press(feature) {
        for (const label of labels)
          label.setAttribute("aria-pressed", String(Number(label.dataset.feature) === feature));
      },
    };
  };
})(window.probe);
