"use strict";
// The map of features: drawn on a plain canvas at once, then by plotly's WebGL where that works.
(function (probe) {
  const { el } = probe;
  const main = document.getElementById("main");
  const state = { colour: "density", q: "", sel: null, module: null };
  let points = []; // ids on the map
  let lit = null; // ids that match the search, or null
  let chosen = []; // ids in a lasso, a box or the view
  let how = ""; // which of these

  const { canvas, frame, colouring } = probe.plainMap;
  const drawCanvas = () => probe.plainMap.draw(state, points, chosen.length ? chosen : lit);
  const under = (event) => probe.plainMap.under(event, points);
  const tip = el("div", { class: "tip", hidden: true });

  canvas.addEventListener("mousemove", (event) => showTip(under(event), event.clientX, event.clientY));
  canvas.addEventListener("mouseleave", () => {
    tip.hidden = true;
  });
  canvas.addEventListener("click", (event) => {
    const id = under(event);
    if (id !== null && !probe.plainMap.wasDragged()) open(id);
  });

  const open = (id) => probe.go(`feature/${id}`);
  function showTip(id, x, y) {
    tip.hidden = id === null || id === undefined;
    if (tip.hidden) return;
    const module = probe.moduleOf(id);
    tip.replaceChildren(
      el("div", {}, el("b", { text: `#${id} ` }), probe.nameOf(id, 4)),
      el("div", {
        text: `fires on ${probe.percent(probe.density(id))} of rows${module >= 0 ? ` · module ${module}` : ""}`,
      }),
    );
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
    } catch {
      return false;
    }
  };
  let plot = null;
  const traces = () => {
    const colour = colouring(state.colour);
    const size = points.length > 50000 ? 2.5 : points.length > 5000 ? 3.5 : 6;
    const xy = (ids) => ({ x: ids.map((id) => probe.place(id)[0]), y: ids.map((id) => probe.place(id)[1]) });
    const marked = (lit || []).filter((id) => probe.place(id));
    const single = state.sel !== null && probe.place(state.sel) ? [state.sel] : [];
    const base = { type: "scattergl", mode: "markers", hoverinfo: "none" };
    return [
      { ...base, ...xy(points), marker: { size, color: points.map(colour), opacity: lit ? 0.25 : 0.85 } },
      { ...base, ...xy(marked), marker: { size: size + 2, color: probe.colour("flame") } },
      {
        ...base,
        ...xy(single),
        marker: { size: 15, color: probe.colour("flame"), line: { width: 2, color: probe.colour("ink") } },
      },
    ];
  };
  const idAt = (point) =>
    [points, (lit || []).filter((id) => probe.place(id)), [state.sel]][point.curveNumber][point.pointNumber];
  const axis = { showgrid: false, zeroline: false, showticklabels: false, range: [-0.03, 1.03], ticks: "" };
  const layout = () => ({
    xaxis: { ...axis },
    yaxis: { ...axis },
    showlegend: false,
    spikedistance: 1,
    hoverdistance: 12,
    dragmode: "pan",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 0, r: 0, t: 0, b: 0 },
    uirevision: "map",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: probe.colour("quiet"), activecolor: probe.colour("ink") },
  });
  async function upgrade() {
    if (points.length === 0) return;
    if (!drawsWebGL()) {
      probe.plainMap.tools.hidden = false;
      say("WebGL is not to be had here, so the map is a plain drawing.");
      return;
    }
    const library = await probe.plotly();
    const place = el("div", { class: "map-plotly" });
    frame.append(place);
    await library.newPlot(place, traces(), layout(), {
      displaylogo: false,
      responsive: true,
      scrollZoom: true,
      modeBarButtons: [
        ["pan2d", "zoom2d", "lasso2d"],
        ["zoomIn2d", "zoomOut2d", "resetScale2d"],
      ],
    });
    plot = place;
    frame.dataset.drawn = "plotly";
    canvas.style.visibility = "hidden";
    place.on("plotly_hover", (event) =>
      showTip(idAt(event.points[0]), event.event.clientX, event.event.clientY),
    );
    place.on("plotly_unhover", () => {
      tip.hidden = true;
    });
    place.on("plotly_click", (event) => open(idAt(event.points[0])));
    place.on("plotly_selected", (event) => {
      choose(event ? [...new Set(event.points.map(idAt))] : [], "in the lasso");
    });
  }

  const note = el("p", { class: "map-note quiet" });
  const say = (text) => {
    note.textContent = text;
  };
  const drawChosen = () => {
    const found = lit || (state.sel === null ? [] : [state.sel]);
    if (chosen.length) probe.mapList.draw(chosen, how);
    else probe.mapList.draw(found, lit ? "found" : "chosen");
  };
  function choose(ids, said) {
    [chosen, how] = [ids, said];
    drawChosen();
    if (!plot) drawCanvas();
  }
  function search() {
    const matches = probe.matcher(state.q);
    const module = state.module;
    lit =
      state.q.trim() || module !== null
        ? points.filter((id) => matches(id) && (module === null || probe.moduleOf(id) === module))
        : null;
  }
  function redraw() {
    probe.plainMap.drawLegend(state.colour);
    drawChosen();
    if (plot) window.Plotly.react(plot, traces(), layout());
    else drawCanvas();
    const text = new URLSearchParams(
      Object.entries(state).filter(([, value]) => value !== null && value !== ""),
    ).toString();
    history.replaceState(null, "", `${probe.isSingle ? "#/map" : "#"}?${text}`);
  }

  function read() {
    const { query } = probe.route();
    const colour = query.get("colour");
    state.colour = ["density", "cluster", "module"].includes(colour) ? colour : "density";
    state.q = query.get("q") || "";
    state.module = /^\d+$/.test(query.get("module") || "") ? Number(query.get("module")) : null;
    const sel = Number(query.get("sel"));
    state.sel =
      query.has("sel") && Number.isInteger(sel) && sel >= 0 && sel < probe.report.count ? sel : null;
  }

  // The page; it draws itself once it stands in the document.
  probe.mapPage = function () {
    document.title = "Map · probe_sae";
    read();
    points = [];
    for (let id = 0; id < probe.report.count; id++) if (probe.place(id)) points.push(id);
    const field = document.getElementById("search");
    field.value = state.q;
    const colours = ["density", "cluster", "module"].map((name) =>
      el("button", {
        type: "button",
        "aria-pressed": String(name === state.colour),
        text: name,
        on: {
          click: (event) => {
            state.colour = name;
            for (const other of event.currentTarget.parentNode.children)
              other.setAttribute("aria-pressed", String(other === event.currentTarget));
            redraw();
          },
        },
      }),
    );
    const content = el(
      "div",
      { class: "map-page" },
      el(
        "div",
        { class: "map-bar" },
        el("h1", { text: "Map" }),
        el("span", { class: "quiet", text: "colour" }),
        el("div", { class: "choice", role: "group", "aria-label": "Colour" }, colours),
        probe.plainMap.legend,
        note,
      ),
      el("div", { class: "map-row" }, el("div", { class: "map-holder" }, frame, probe.plainMap.tools), probe.mapList.side),
      tip,
    );
    say(
      points.length === 0
        ? "No feature has a place on the map."
        : `${probe.number(points.length)} features; near ones have similar decoder directions. Distances far apart mean little.`,
    );
    probe.plainMap.tools.hidden = !probe.isSingle;
    search();
    const listeners = {
      searching: (event) => {
        state.q = event.detail;
        state.module = null;
        chosen = [];
        search();
        redraw();
      },
      themechange: redraw,
      mapmove: () => plot || drawCanvas(),
    };
    for (const [name, run] of Object.entries(listeners)) addEventListener(name, run);
    const sized = new ResizeObserver(() => plot || drawCanvas());
    sized.observe(frame);
    const stopChoosing = probe.mapChoosing(points, choose, () => plot);
    document.body.classList.add("wide");
    probe.leave = () => {
      sized.disconnect();
      stopChoosing();
      for (const [name, run] of Object.entries(listeners)) removeEventListener(name, run);
      document.body.classList.remove("wide");
    };
    redraw();
    return content;
  };

  async function start() {
    try {
      await probe.open();
    } catch (error) {
      main.replaceChildren(probe.problem(error));
      return;
    }
    probe.header("map");
    main.replaceChildren(probe.mapPage());
    addEventListener("hashchange", () => {
      read();
      search();
      redraw();
    });
    main.dataset.ready = "map";
    try {
      await upgrade();
    } catch (error) {
      say(error.message);
    }
    main.dataset.ready = frame.dataset.drawn || "map";
  }
  if (!probe.isSingle) start();
})(window.probe);
