"use strict";
// The map on a plain canvas: what is seen first, and all there is without WebGL. Also its colours.
(function (probe) {
  const { el } = probe;
  const GROUPS = [
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#ee8866",
    "#44bb99",
    "#bbcc33",
    "#9977cc",
    "#997744",
    "#dd77aa",
  ];
  const RAMP = [
    [68, 1, 84],
    [65, 68, 135],
    [42, 120, 142],
    [34, 168, 132],
    [122, 209, 81],
    [253, 231, 37],
  ];
  const DARK_RAMP = [
    [88, 60, 140],
    [65, 90, 165],
    [42, 130, 160],
    [34, 168, 132],
    [122, 209, 81],
    [253, 231, 37],
  ];

  const legend = el("div", { class: "legend" });

  const isDark = () =>
    probe
      .colour("paper")
      .match(/\d+/g)
      .slice(0, 3)
      .reduce((a, b) => a + Number(b), 0) < 382;

  function ramp(share) {
    const stops = isDarkNow ? DARK_RAMP : RAMP;
    const place = Math.max(0, Math.min(0.9999, share)) * (stops.length - 1);
    const [low, part] = [Math.floor(place), place % 1];
    return `rgb(${stops[low].map((v, i) => Math.round(v + part * (stops[low + 1][i] - v))).join(",")})`;
  }
  let isDarkNow = false;

  // A function from feature to colour.
  function colouring(by) {
    isDarkNow = isDark();
    const { index, manifest } = probe.report;
    if (by === "density") {
      const low = manifest.density_histogram.edges[0];
      const shades = Array.from({ length: 64 }, (_, i) => ramp(isDarkNow ? i / 63 : 1 - i / 63));
      return (id) =>
        shades[Math.max(0, Math.min(63, Math.round(63 * (1 - Math.log10(probe.density(id)) / low))))];
    }
    const column = index[by];
    const grey = probe.colour("dot");
    return (id) => (column[id] === 0 ? grey : GROUPS[(column[id] - 1) % GROUPS.length]);
  }

  const canvas = el("canvas", { class: "map-canvas", "aria-label": "Map of features" });
  const frame = el("div", { class: "map-frame" }, canvas);
  const where = ([x, y]) => [(0.03 + x * 0.94) * canvas.clientWidth, (0.97 - y * 0.94) * canvas.clientHeight];

  function draw(state, points, lit) {
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colour = colouring(state.colour);
    const size = points.length > 50000 ? 1.5 : points.length > 5000 ? 2.5 : 5;
    const dim = lit ? 0.25 : 0.85;
    pen.globalAlpha = dim;
    for (const id of points) {
      const [x, y] = where(probe.place(id));
      pen.fillStyle = colour(id);
      if (size > 4) {
        pen.beginPath();
        pen.arc(x, y, size / 2, 0, 7);
        pen.fill();
      } else pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
    pen.globalAlpha = 1;
    for (const id of lit || []) dot(pen, id, 3.2, probe.colour("flame"));
    if (state.sel !== null && probe.place(state.sel)) {
      dot(pen, state.sel, 7, probe.colour("ink"));
      dot(pen, state.sel, 5, probe.colour("flame"));
    }
    frame.dataset.drawn = "canvas";
  }
  function dot(pen, id, radius, colour) {
    pen.beginPath();
    pen.arc(...where(probe.place(id)), radius, 0, 7);
    pen.fillStyle = colour;
    pen.fill();
  }
  function under(event, points) {
    const box = canvas.getBoundingClientRect();
    let [best, least] = [null, 144];
    for (const id of points) {
      const [x, y] = where(probe.place(id));
      const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (far < least) [best, least] = [id, far];
    }
    return best;
  }
  function drawLegend(by) {
    const low = probe.report.manifest.density_histogram.edges[0];
    isDarkNow = isDark();
    const stops = Array.from({ length: 7 }, (_, i) => ramp(isDarkNow ? i / 6 : 1 - i / 6)).join(",");
    legend.replaceChildren(
      ...(by === "density"
        ? [
            el("span", { text: `rare ${probe.percent(10 ** low)}` }),
            el("i", { style: { background: `linear-gradient(to right, ${stops})` } }),
            el("span", { text: "100 % of rows" }),
          ]
        : [
            el("span", {
              text: `Each colour is a ${by}; colours repeat after ${GROUPS.length}; grey belongs to none.`,
            }),
          ]),
    );
  }

  probe.plainMap = { canvas, frame, legend, colouring, draw, under, drawLegend };
})(window.probe);
