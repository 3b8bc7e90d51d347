"use strict";
// Small plots as inline SVG, at once; the same figures in plotly when a person asks for them.
(function (probe) {
  const SPACE = "http://www.w3.org/2000/svg";
  const { el } = probe;

  probe.svg = function (tag, attributes = {}, ...children) {
    const element = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else if (name === "tip") probe.tip(element, value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat(3).filter(Boolean));
    return element;
  };
  const svg = probe.svg;

  // A frame that draws itself at its own width, and again when the width changes.
  probe.chart = function (label, height, draw) {
    const frame = el("div", { class: "chart", style: { height: `${height}px` } });
    let before = 0;
    const redraw = () => {
      const width = Math.round(frame.clientWidth);
      if (!width || width === before) return;
      before = width;
      frame.replaceChildren(
        svg("svg", { width, height, role: "img", "aria-label": label }, draw(width, height)),
      );
    };
    new ResizeObserver(redraw).observe(frame);
    return frame;
  };

  // Round numbers that divide low..high into about `count` parts.
  probe.ticks = function (low, high, count = 4) {
    if (!(high > low)) return [low];
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
      found.push(Number((i * step).toPrecision(12)));
    return found;
  };

  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
    if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
    if (size !== 0 && size < 1e-3) return value.toExponential(0);
    return String(Number(value.toPrecision(4)));
  };
  probe.short = short;

  // Bars of equal width from `low` to `high`. tick: number -> text of the x axis; tip: (bar) -> text.
  probe.bars = function ({
    label,
    counts,
    low,
    high,
    log = false,
    isCount = true,
    height = 190,
    tick = short,
    tip,
    xTicks,
    caption,
  }) {
    const most = Math.max(isCount ? 1 : 1e-9, ...counts);
    const scale = (count) => (log ? Math.log10(count + 1) / Math.log10(most + 1) : count / most);
    return probe.chart(label, height, (width) => {
      const [left, bottom, top, right] = [44, caption ? 42 : 26, 10, 8];
      const inner = [width - left - right, height - top - bottom];
      const x = (value) => left + ((value - low) / (high - low || 1)) * inner[0];
      const y = (share) => top + (1 - share) * inner[1];
      const size = inner[0] / counts.length;
      const marks = log
        ? [0, ...Array.from({ length: 8 }, (_, i) => 10 ** i).filter((v) => v <= most)]
        : probe.ticks(0, most, 3).filter((v) => !isCount || Number.isInteger(v));
      return [
        marks.map((v) =>
          svg(
            "g",
            { class: "axis" },
            svg("line", { x1: left, x2: width - right, y1: y(scale(v)), y2: y(scale(v)) }),
            svg("text", { x: left - 8, y: y(scale(v)) + 4, "text-anchor": "end", text: short(v) }),
          ),
        ),
        [...counts].map((count, i) =>
          svg(
            "g",
            { class: "bar", tip: tip && (() => tip(i)) },
            svg("rect", { class: "hit", x: left + i * size, y: top, width: size, height: inner[1] }),
            count > 0 &&
              svg("rect", {
                x: left + i * size + Math.min(1, size * 0.08),
                width: Math.max(size - Math.min(2, size * 0.16), 0.5),
                y: y(scale(count)),
                height: Math.max(y(0) - y(scale(count)), 1),
                rx: Math.min(2, size / 4),
              }),
          ),
        ),
        svg("line", { class: "base", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
        (xTicks || probe.ticks(low, high, Math.max(2, Math.floor(inner[0] / 90)))).map((v) =>
          svg("text", {
            class: "axis",
            x: x(v),
            y: y(0) + 17,
            "text-anchor": x(v) > width - 24 ? "end" : "middle",
            text: tick(v),
          }),
        ),
        caption &&
          svg("text", {
            class: "axis",
            x: left + inner[0] / 2,
            y: height - 5,
            "text-anchor": "middle",
            text: caption,
          }),
      ];
    });
  };

  // One curve; `xs` ascend. Shows the last value.
  probe.curve = function ({ label, xs, ys, height = 150, format = probe.number }) {
    const known = ys.map((y, i) => [xs[i], y]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    const [low, high] = [Math.min(...known.map((p) => p[1]), 0), Math.max(...known.map((p) => p[1]))];
    const [first, last] = [known[0], known[known.length - 1]];
    return probe.chart(label, height, (width) => {
      const [left, bottom, top, right] = [44, 24, 12, 58];
      const x = (v) => left + ((v - first[0]) / (last[0] - first[0] || 1)) * (width - left - right);
      const y = (v) => top + (1 - (v - low) / (high - low || 1)) * (height - top - bottom);
      const path = known.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
      return [
        probe.ticks(low, high, 3).map((v) =>
          svg(
            "g",
            { class: "axis" },
            svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v) }),
            svg("text", {
              x: left - 8,
              y: y(v) + 4,
              "text-anchor": "end",
              text: format === probe.percent ? format(v) : short(v),
            }),
          ),
        ),
        probe.ticks(first[0], last[0], Math.max(2, Math.floor(width / 130))).map((v) =>
          svg("text", {
            class: "axis",
            x: x(v),
            y: height - 5,
            "text-anchor": "middle",
            text: short(v),
          }),
        ),
        svg("path", { class: "curve", d: path }),
        svg("circle", { class: "end", cx: x(last[0]), cy: y(last[1]), r: 3 }),
        svg("text", { class: "last", x: x(last[0]) + 8, y: y(last[1]) + 4, text: format(last[1]) }),
      ];
    });
  };

  // The small histogram of a list row.
  probe.spark = (bars, width = 80, height = 22) => {
    const size = width / bars.length;
    return svg(
      "svg",
      { class: "spark", width, height, "aria-hidden": "true" },
      svg("path", {
        d: bars
          .map(
            (bar, i) =>
              bar &&
              `M${(i * size + 0.5).toFixed(1)} ${height}v${-(bar / 15) * (height - 2)}h${(size - 1).toFixed(1)}V${height}z`,
          )
          .filter(Boolean)
          .join(""),
      }),
    );
  };

  // --- plotly, only when asked for
  let plotly = null;
  probe.plotly = async function () {
    plotly ||= probe.script("assets/plotly.min.js");
    await plotly;
    return window.Plotly;
  };

  probe.plotlyLayout = (layout) => {
    const [ink, line] = [probe.colour("ink"), probe.colour("line")];
    const themed = Object.fromEntries(
      Object.entries(layout)
        .filter(([name]) => /^[xy]axis\d*$/.test(name))
        .map(([name, axis]) => [name, { ...axis, gridcolor: line, zerolinecolor: line, linecolor: line }]),
    );
    return {
      ...layout,
      ...themed,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
      margin: { l: 56, r: 20, t: 32, b: 48 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: probe.colour("quiet"), activecolor: ink },
      colorway: [probe.colour("accent")],
      hoverlabel: { font: { family: "system-ui, sans-serif" } },
    };
  };

  // A button that swaps a plot for its plotly figure.
  probe.interactive = function (frame, name) {
    if (probe.isSingle) return null; // plotly would be most of the file
    const button = el("button", { class: "plain", text: "Open interactive plot" });
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Loading…";
      try {
        const [library, figures] = await Promise.all([probe.plotly(), probe.load("figures")]);
        const { data, layout } = figures[name];
        const place = el("div", { class: "plotly", style: { height: `${layout.height || 320}px` } });
        frame.replaceChildren(place);
        const draw = () =>
          library.react(place, data, probe.plotlyLayout(layout), {
            displaylogo: false,
            responsive: true,
            modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
          });
        await draw();
        addEventListener("themechange", () => place.isConnected && draw());
        button.remove();
      } catch (error) {
        frame.replaceChildren(probe.problem(error));
        button.remove();
      }
    });
    return button;
  };
})(window.probe);
