"use strict";
// The map of features: drawn on a plain canvas at once, then by plotly's WebGL where that works.
(function (probe) {
  const { el } = probe;
  const main = document.getElementById("main");
  const GROUPS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#bbcc33", "#9977cc", "#997744", "#dd77aa"];
  const RAMP = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
  const DARK_RAMP = [[88, 60, 140], [65, 90, 165], [42, 130, 160], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

  const state = { colour: "density", q: "", sel: null, module: null };
  let points = []; // ids on the map
  let lit = null; // ids that match the search, or null
  let chosen = []; // ids in the lasso

  const isDark = () => probe.colour("paper").match(/\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) < 382;

  function ramp(share) {
    const stops = isDarkNow ? DARK_RAMP : RAMP;
    const place = Math.max(0, Math.min(0.9999, share)) * (stops.length - 1);
    const [low, part] = [Math.floor(place), place % 1];
    return `rgb(${stops[low].map((v, i) => Math.round(v + part * (stops[low + 1][i] - v))).join(",")})`;
  }
  let isDarkNow = false;

  // A function from feature to colour.
  function colouring() {
    isDarkNow = isDark();
    const { index, manifest } = probe.report;
    if (state.colour === "density") {
      const low = manifest.density_histogram.edges[0];
      const shades = Array.from({ length: 64 }, (_, i) => ramp(isDarkNow ? i / 63 : 1 - i / 63));
      return (id) => shades[Math.max(0, Math.min(63, Math.round(63 * (1 - Math.log10(probe.density(id)) / low))))];
    }
    const column = index[state.colour];
    const grey = probe.colour("dot");
    return (id) => (column[id] === 0 ? grey : GROUPS[(column[id] - 1) % GROUPS.length]);
  }

  // --- the plain canvas
  const canvas = el("canvas", { class: "map-canvas", "aria-label": "Map of features" });
  const frame = el("div", { class: "map-frame" }, canvas);
  const tip = el("div", { class: "tip", hidden: true });
  const where = ([x, y]) => [(0.03 + x * 0.94) * canvas.clientWidth, (0.97 - y * 0.94) * canvas.clientHeight];

  function drawCanvas() {
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colour = colouring();
    const size = points.length > 50000 ? 1.5 : points.length > 5000 ? 2.5 : 5;
    const dim = lit ? 0.25 : 0.85;
    pen.globalAlpha = dim;
    for (const id of points) {
      const [x, y] = where(probe.place(id));
      pen.fillStyle = colour(id);
      if (size > 4) { pen.beginPath(); pen.arc(x, y, size / 2, 0, 7); pen.fill(); } else pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
    pen.globalAlpha = 1;
    for (const id of lit || []) dot(pen, id, 3.2, probe.colour("flame"));
    if (state.sel !== null && probe.place(state.sel)) { dot(pen, state.sel, 7, probe.colour("ink")); dot(pen, state.sel, 5, probe.colour("flame")); }
    frame.dataset.drawn = "canvas";
  }
  function dot(pen, id, radius, colour) {
    pen.beginPath();
    pen.arc(...where(probe.place(id)), radius, 0, 7);
    pen.fillStyle = colour;
    pen.fill();
  }
  function under(event) {
    const box = canvas.getBoundingClientRect();
    let [best, least] = [null, 144];
    for (const id of points) {
      const [x, y] = where(probe.place(id));
      const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (far < least) [best, least] = [id, far];
    }
    return best;
  }
  canvas.addEventListener("mousemove", (event) => showTip(under(event), event.clientX, event.clientY));
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => { const id = under(event); if (id !== null) open(id); });

  const open = (id) => { location.href = `index.html#/feature/${id}`; };
  function showTip(id, x, y) {
    tip.hidden = id === null || id === undefined;
    if (tip.hidden) return;
    const module = probe.moduleOf(id);
    tip.replaceChildren(el("div", {}, el("b", { text: `#${id} ` }), probe.nameOf(id, 4)),
      el("div", { text: `fires on ${probe.percent(probe.density(id))} of rows${module >= 0 ? ` · module ${module}` : ""}` }));
    tip.style.left = `${Math.min(x + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y + 14, innerHeight - tip.offsetHeight - 8)}px`;
    frame.style.cursor = "pointer";
  }

  // --- plotly
  const drawsWebGL = () => {
    try {
      new Function("return 1");
      const sample = document.createElement("canvas");
      return Boolean(sample.getContext("webgl2") || sample.getContext("webgl"));
    } catch { return false; }
  };
  let plot = null;
  const traces = () => {
    const colour = colouring();
    const size = points.length > 50000 ? 2.5 : points.length > 5000 ? 3.5 : 6;
    const xy = (ids) => ({ x: ids.map((id) => probe.place(id)[0]), y: ids.map((id) => probe.place(id)[1]) });
    const marked = (lit || []).filter((id) => probe.place(id));
    const single = state.sel !== null && probe.place(state.sel) ? [state.sel] : [];
    const base = { type: "scattergl", mode: "markers", hoverinfo: "none" };
    return [
      { ...base, ...xy(points), marker: { size, color: points.map(colour), opacity: lit ? 0.25 : 0.85 } },
      { ...base, ...xy(marked), marker: { size: size + 2, color: probe.colour("flame") } },
      { ...base, ...xy(single), marker: { size: 15, color: probe.colour("flame"), line: { width: 2, color: probe.colour("ink") } } },
    ];
  };
  const idAt = (point) => [points, (lit || []).filter((id) => probe.place(id)), [state.sel]][point.curveNumber][point.pointNumber];
  const axis = { showgrid: false, zeroline: false, showticklabels: false, range: [-0.03, 1.03], ticks: "" };
  const layout = () => ({
    xaxis: { ...axis }, yaxis: { ...axis }, showlegend: false, spikedistance: 1, hoverdistance: 12, dragmode: "pan",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 0, r: 0, t: 0, b: 0 }, uirevision: "map",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: probe.colour("quiet"), activecolor: probe.colour("ink") },
  });
  async function upgrade() {
    if (points.length === 0) return;
    if (!drawsWebGL()) {
      say("WebGL is not to be had here, so the map stands still: no zoom, no lasso.");
      return;
    }
    const library = await probe.plotly();
    const place = el("div", { class: "map-plotly" });
    frame.append(place);
    await library.newPlot(place, traces(), layout(), {
      displaylogo: false, responsive: true, scrollZoom: true,
      modeBarButtons: [["pan2d", "zoom2d", "lasso2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
    plot = place;
    frame.dataset.drawn = "plotly";
    canvas.style.visibility = "hidden";
    place.on("plotly_hover", (event) => showTip(idAt(event.points[0]), event.event.clientX, event.event.clientY));
    place.on("plotly_unhover", () => { tip.hidden = true; });
    place.on("plotly_click", (event) => open(idAt(event.points[0])));
    place.on("plotly_selected", (event) => { chosen = event ? [...new Set(event.points.map(idAt))] : []; drawChosen(); });
  }

  const note = el("p", { class: "map-note quiet" });
  const say = (text) => { note.textContent = text; };
  const side = el("aside", { class: "map-side", "aria-label": "Chosen features" });
  const legend = el("div", { class: "legend" });

  function drawChosen() {
    const ids = chosen.length ? chosen : lit || (state.sel === null ? [] : [state.sel]);
    const sorted = [...ids].sort((a, b) => probe.report.index.firings[b] - probe.report.index.firings[a]);
    side.hidden = sorted.length === 0;
    side.replaceChildren(
      el("h2", { text: `${probe.number(sorted.length)} ${chosen.length ? "in the lasso" : lit ? "found" : "chosen"}` }),
      el("p", { class: "buttons" }, el("button", { class: "plain", text: "CSV", on: { click: () => probe.exportSelection(sorted, "csv") } }), el("button", { class: "plain", text: "JSON", on: { click: () => probe.exportSelection(sorted, "json") } })),
      el("ul", { class: "related" }, sorted.slice(0, 200).map((id) => el("li", {}, el("a", { href: `index.html#/feature/${id}` }, el("span", { class: "id", text: `#${id}` }), probe.nameOf(id, 3)), el("span", { class: "figure", text: probe.percent(probe.density(id)) })))),
      sorted.length > 200 && el("p", { class: "quiet", text: "The 200 densest are shown." }) || "");
  }
  function drawLegend() {
    const low = probe.report.manifest.density_histogram.edges[0];
    isDarkNow = isDark();
    const stops = Array.from({ length: 7 }, (_, i) => ramp(isDarkNow ? i / 6 : 1 - i / 6)).join(",");
    legend.replaceChildren(...(state.colour === "density"
      ? [el("span", { text: `rare ${probe.percent(10 ** low)}` }), el("i", { style: { background: `linear-gradient(to right, ${stops})` } }), el("span", { text: "100 % of rows" })]
      : [el("span", { text: `Each colour is a ${state.colour}; colours repeat after ${GROUPS.length}; grey belongs to none.` })]));
  }
  function search() {
    const matches = probe.matcher(state.q);
    const module = state.module;
    lit = state.q.trim() || module !== null ? points.filter((id) => matches(id) && (module === null || probe.moduleOf(id) === module)) : null;
  }
  function redraw() {
    drawLegend();
    drawChosen();
    if (plot) window.Plotly.react(plot, traces(), layout());
    else drawCanvas();
    const text = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== null && value !== "")).toString();
    history.replaceState(null, "", `#?${text}`);
  }

  function read() {
    const { query } = probe.route();
    const colour = query.get("colour");
    state.colour = ["density", "cluster", "module"].includes(colour) ? colour : "density";
    state.q = query.get("q") || "";
    state.module = /^\d+$/.test(query.get("module") || "") ? Number(query.get("module")) : null;
    const sel = Number(query.get("sel"));
    state.sel = query.has("sel") && Number.isInteger(sel) && sel >= 0 && sel < probe.report.count ? sel : null;
  }

  async function start() {
    try { await probe.open(); } catch (error) { main.replaceChildren(probe.problem(error)); return; }
    probe.header("map");
    document.title = `Map · ${document.title}`.replace("Map · Map", "Map");
    read();
    for (let id = 0; id < probe.report.count; id++) if (probe.place(id)) points.push(id);
    const field = document.getElementById("search");
    field.value = state.q;
    const colours = ["density", "cluster", "module"].map((name) => el("button", { type: "button", "aria-pressed": String(name === state.colour), text: name, on: { click: (event) => {
      state.colour = name;
      for (const other of event.currentTarget.parentNode.children) other.setAttribute("aria-pressed", String(other === event.currentTarget));
      redraw();
    } } }));
    main.replaceChildren(el("div", { class: "map-page" },
      el("div", { class: "map-bar" }, el("h1", { text: "Map" }), el("span", { class: "quiet", text: "colour" }), el("div", { class: "choice", role: "group", "aria-label": "Colour" }, colours), legend, note),
      el("div", { class: "map-row" }, frame, side)), tip);
    say(points.length === 0 ? "No feature has a place on the map." : `${probe.number(points.length)} features; near ones have similar decoder directions. Distances far apart mean little.`);
    search();
    redraw();
    addEventListener("searching", (event) => { state.q = event.detail; state.module = null; chosen = []; search(); redraw(); });
    addEventListener("hashchange", () => { read(); search(); redraw(); });
    addEventListener("themechange", redraw);
    addEventListener("resize", () => { if (!plot) drawCanvas(); });
    main.dataset.ready = "map";
    try { await upgrade(); } catch (error) { say(error.message); }
    main.dataset.ready = frame.dataset.drawn || "map";
  }
  start();
})(window.probe);
