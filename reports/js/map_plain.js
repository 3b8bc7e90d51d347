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
  // What of the map is in view: `scale` times enlarged, its middle at `x`, `y`.
  const view = { scale: 1, x: 0.5, y: 0.5 };
  const where = ([x, y]) => [
    ((0.03 + x * 0.94 - view.x) * view.scale + 0.5) * canvas.clientWidth,
    ((0.97 - y * 0.94 - view.y) * view.scale + 0.5) * canvas.clientHeight,
  ];
  const moved = () => {
    const room = 0.5 / view.scale;
    for (const axis of "xy") view[axis] = Math.max(room, Math.min(1 - room, view[axis]));
    dispatchEvent(new Event("mapmove"));
  };
  // Enlarge about a point of the canvas, given as shares of its size.
  function zoom(factor, x = 0.5, y = 0.5) {
    const before = view.scale;
    view.scale = Math.max(1, Math.min(40, before * factor));
    view.x += (x - 0.5) * (1 / before - 1 / view.scale);
    view.y += (y - 0.5) * (1 / before - 1 / view.scale);
    moved();
  }
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      zoom(1.2 ** (event.deltaY < 0 ? 1 : -1), ...at);
    },
    { passive: false },
  );
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    grip = event.pointerType === "mouse" ? { x: event.clientX, y: event.clientY, far: 0 } : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!grip || !event.buttons) return;
    const [x, y] = [event.clientX - grip.x, event.clientY - grip.y];
    view.x -= x / canvas.clientWidth / view.scale;
    view.y -= y / canvas.clientHeight / view.scale;
    grip = { x: event.clientX, y: event.clientY, far: grip.far + Math.abs(x) + Math.abs(y) };
    moved();
  });
  const wasDragged = () => grip !== null && grip.far > 4;
  const reset = () => {
    view.scale = 1;
    moved();
  };
  const tools = el(
    "div",
    { class: "map-tools buttons", hidden: true, role: "group", "aria-label": "The map's tools" },
    [
      ["+", "Enlarge", () => zoom(1.6)],
      ["−", "Reduce", () => zoom(1 / 1.6)],
      ["↺", "Whole map", reset],
    ].map(([text, tip, click]) =>
      el("button", { class: "icon zoom", text, tip, "aria-label": tip, on: { click } }),
    ),
  );

  function draw(state, points, lit) {
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colour = colouring(state.colour);
    const size =
      (points.length > 50000 ? 1.5 : points.length > 5000 ? 2.5 : 5) * Math.min(2, view.scale ** 0.4);
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

  probe.plainMap = {
    canvas,
    frame,
    view,
    where,
    zoom,
    moved,
    reset,
    legend,
    colouring,
    draw,
    under,
    drawLegend,
    tools,
    wasDragged,
  };
})(window.probe);
