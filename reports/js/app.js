"use strict";
// Open the report and show the page that the address names.
(function (probe) {
  const { el } = probe;
  const main = document.getElementById("main");

  const ROUTES = {
    "": ["overview", (route) => probe.overview(route)],
    features: ["features", (route) => probe.list(route)],
    feature: ["features", (route) => probe.featurePage(route)],
    modules: ["modules", (route) => probe.modules(route)],
    map: ["map", (route) => (probe.mapPage ? probe.mapPage(route) : toMap())],
    compare: ["compare", (route) => probe.compare(route)],
    module: ["modules", (route) => probe.module(route)],
    inputs: ["inputs", (route) => probe.inputsPage(route)],
    input: ["inputs", (route) => probe.inputPage(route)],
  };

  let turn = 0;
  async function show() {
    const route = probe.route();
    const [page, make] = ROUTES[route.path[0] || ""] || [null, lost];
    const mine = ++turn;
    if (route.path[0] !== "features") document.getElementById("search").value = route.query.get("q") || "";
    let content = null;
    const leave = probe.leave;
    probe.leave = null;
    leave?.();
    try {
      content = await make(route);
    } catch (error) {
      console.error(error.message);
      content = probe.problem(error);
    }
    if (mine !== turn) return;
    probe.current(page);
    // Before the page changes: afterwards both would lay it out at once.
    scrollTo(0, 0);
    if (turn > 1 && document.activeElement?.id !== "search") main.focus({ preventScroll: true });
    main.replaceChildren(content);
    main.dataset.ready = location.hash || "#/";
  }

  function toMap() {
    location.replace("map.html");
    return el("div");
  }

  function lost(route) {
    return el(
      "section",
      { class: "problem" },
      el("h1", { text: "No such page" }),
      el("p", { text: `This report has no page “${route.path.join("/")}”.` }),
      el("p", {}, el("a", { href: "#/", text: "To the overview" })),
    );
  }

  async function start() {
    try {
      await probe.open();
    } catch (error) {
      main.replaceChildren(probe.problem(error));
      return;
    }
    probe.header("overview");
    addEventListener("hashchange", show);
    addEventListener("searching", (event) => {
      if (
        !["features", "map"].includes(probe.route().path[0]) &&
        event.detail.trim().length > 1 &&
        !/^#?\d+$/.test(event.detail.trim())
      ) {
        location.hash = `#/features?q=${encodeURIComponent(event.detail.trim())}`;
      }
    });
    await show();
  }
  start();
})(window.probe);
