"use strict";
// The list of features: only the rows in view exist.
(function (probe) {
  const { el } = probe;
  let left = null; // where the list was when it was left, to come back to
  const HEIGHT = 40;
  const SPARE = 6;
  const COLUMNS = [
    ["id", "Feature", "Number of the feature"],
    [
      null,
      "Label",
      "Your label or one that was made, the commonest tokens (or classes) of its firings, its strongest images",
    ],
    ["fit", "Fit", "balanced_accuracy"],
    ["share", "Top share", "Share of the firings on the commonest token"],
    ["density", "Density", "density"],
    ["max", "Max", "max"],
    ["mean", "Mean", "mean"],
    [null, "Firings", "Histogram of the firings, from 0 to the maximum; heights on a log scale"],
    ["module", "Module", "Community of features that fire together"],
  ];

  function row(id, at, cursor, { sparks, thumbs }) {
    const { index } = probe.report;
    const module = probe.moduleOf(id);
    const { star } = probe.notes.get(id);
    const density = probe.density(id);
    return el(
      "tr",
      {
        "aria-rowindex": at + 2,
        "data-id": id,
        class: at === cursor ? "cursor" : null,
        "aria-current": at === cursor ? "true" : null,
      },
      el(
        "td",
        { class: "id" },
        el("a", { href: `#/feature/${id}`, text: `#${id}` }),
        star && el("span", { class: "star", "aria-label": "starred", text: "★" }),
      ),
      el("td", { class: "names" }, thumbs && thumbs(id), probe.nameOf(id, 5)),
      el("td", { class: "fit", text: probe.percent(probe.fitOf(id)) }),
      el("td", { class: "share", text: index.share[id] ? `${Math.round(index.share[id] / 655.35)} %` : "–" }),
      el("td", { class: "density", tip: probe.oneIn(density), text: probe.percent(density) }),
      el("td", { class: "max", text: index.firings[id] ? probe.number(index.max[id]) : "–" }),
      el("td", { class: "mean", text: probe.number(index.mean[id]) }),
      el("td", { class: "sparks" }, sparks && probe.spark(sparks(id))),
      el("td", { class: "module" }, module >= 0 && el("a", { href: `#/module/${module}`, text: module })),
    );
  }

  probe.list = async function (route) {
    const state = Object.fromEntries(
      ["q", "sort", "from", "to", "module", "part", "starred", "clear", "dead"].map((name) => [
        name,
        route.query.get(name) || "",
      ]),
    );
    const search = document.getElementById("search");
    // While this page was being made, a person may have typed on.
    if (document.activeElement === search && search.value.trim() && search.value !== state.q) {
      state.q = search.value;
      probe.keep("features", state);
    } else search.value = state.q;
    let [order, cursor] = [[], -1];
    const drawn = { sparks: null, thumbs: null }; // what comes after the first rows are there
    const [low] = probe.report.manifest.density_histogram.edges;
    const top = el("tr", { "aria-hidden": "true" });
    const end = el("tr", { "aria-hidden": "true" });
    const body = el("tbody");
    const heads = el("tr", { "aria-rowindex": "1" });
    const table = el("table", { class: "features", "aria-label": "Features" }, el("thead", {}, heads), body);
    const scroller = el(
      "div",
      { class: "scroller", id: "table", tabindex: "0", role: "region", "aria-label": "List of features" },
      table,
    );
    const count = el("p", { class: "count", role: "status" });
    const nothing = el("p", {
      class: "nothing",
      hidden: true,
      text: "No feature matches. Clear the search or widen the filters.",
    });

    function drawHeads() {
      const sort = state.sort || "-density";
      heads.replaceChildren(
        ...COLUMNS.map(([name, heading, meaning]) => {
          const { marks, manifest } = probe.report;
          const images = manifest.kind === "image" ? "strongest images, " : "";
          const named = `${images}label${marks ? `, commonest ${marks.many}` : ""}`;
          const text = heading === "Label" ? named[0].toUpperCase() + named.slice(1) : heading;
          const active = name && sort.replace("-", "") === name;
          const direction = sort.startsWith("-") ? "descending" : "ascending";
          const tip = probe.report.manifest.definitions[meaning] || meaning;
          const press = () =>
            change({
              sort:
                active && sort.startsWith("-")
                  ? name
                  : active
                    ? `-${name}`
                    : ["id", "module"].includes(name)
                      ? name
                      : `-${name}`,
            });
          return el(
            "th",
            {
              scope: "col",
              class: name || (text === "Firings" ? "sparks" : "names"),
              "aria-sort": active ? direction : null,
            },
            name
              ? el(
                  "button",
                  { class: "sort", tip, on: { click: press } },
                  text,
                  el("span", {
                    "aria-hidden": "true",
                    text: active ? (direction === "descending" ? " ↓" : " ↑") : "",
                  }),
                )
              : el("span", { tip, text }),
          );
        }),
      );
    }
    function drawRows() {
      if (!scroller.isConnected) return; // the first time it is drawn is when its size is known
      const first = Math.max(0, Math.floor(scroller.scrollTop / HEIGHT) - SPARE);
      const last = Math.min(
        order.length,
        Math.ceil((scroller.scrollTop + scroller.clientHeight) / HEIGHT) + SPARE,
      );
      top.style.height = `${first * HEIGHT}px`;
      end.style.height = `${(order.length - last) * HEIGHT}px`;
      body.replaceChildren(
        top,
        ...order.slice(first, last).map((id, i) => row(id, first + i, cursor, drawn)),
        end,
      );
    }
    function choose() {
      order = probe.select(state);
      probe.order = order;
      cursor = -1;
      table.setAttribute("aria-rowcount", order.length + 1);
      count.replaceChildren(
        el("b", { text: probe.number(order.length) }),
        ` of ${probe.number(probe.report.count)} features`,
      );
      nothing.hidden = order.length > 0;
      drawHeads();
      drawRows();
    }
    function change(part) {
      Object.assign(state, part);
      probe.keep("features", state);
      scroller.scrollTop = 0;
      choose();
    }
    function move(step) {
      cursor = Math.max(0, Math.min(order.length - 1, cursor + step));
      const place = cursor * HEIGHT;
      const room = scroller.clientHeight - 2 * HEIGHT;
      if (place < scroller.scrollTop) scroller.scrollTop = place;
      if (place > scroller.scrollTop + room) scroller.scrollTop = place - room;
      drawRows();
    }

    let waiting = 0;
    scroller.addEventListener("scroll", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(drawRows);
    });
    const sized = new ResizeObserver(drawRows);
    sized.observe(scroller);
    body.addEventListener("click", (event) => {
      const found = event.target.closest("tr[data-id]");
      if (found && !event.target.closest("a") && !String(getSelection()))
        location.hash = `#/feature/${found.dataset.id}`;
    });
    const searched = (event) => change({ q: event.detail });
    const keys = (event) => {
      if (
        event.target.closest("input, textarea, select, button, dialog") ||
        event.ctrlKey ||
        event.metaKey ||
        event.altKey
      )
        return;
      if (event.key === "j") move(1);
      else if (event.key === "k") move(-1);
      else if (event.key === "Enter" && cursor >= 0 && !event.target.closest("a"))
        location.hash = `#/feature/${order[cursor]}`;
    };
    let place = 0;
    scroller.addEventListener("scroll", () => {
      place = scroller.scrollTop;
    });
    addEventListener("searching", searched);
    addEventListener("keydown", keys);
    addEventListener("noteschange", choose);
    probe.leave = () => {
      sized.disconnect();
      left = { state: JSON.stringify(state), place, cursor };
      removeEventListener("searching", searched);
      removeEventListener("keydown", keys);
      removeEventListener("noteschange", choose);
    };
    choose();
    if (left && left.state === JSON.stringify(state)) {
      const { place: before, cursor: row } = left;
      probe.later(() => {
        scroller.scrollTop = before;
        cursor = row;
        drawRows();
      });
    }
    probe.later(async () => {
      const isImage = probe.report.manifest.kind === "image";
      try {
        [drawn.sparks, drawn.thumbs] = await Promise.all([probe.sparks(), isImage && probe.thumbs()]);
        for (const line of body.querySelectorAll("tr[data-id]")) {
          const id = Number(line.dataset.id);
          line.querySelector(".sparks").replaceChildren(probe.spark(drawn.sparks(id)));
          if (drawn.thumbs) line.querySelector(".names").prepend(drawn.thumbs(id));
        }
      } catch (error) {
        probe.say(error.message);
      }
    });
    document.title = "Features · probe_sae";
    return el(
      "div",
      { class: "page list" },
      el(
        "div",
        { class: "list-head" },
        el("h1", { text: "Features" }),
        count,
        el(
          "div",
          { class: "buttons" },
          el("button", {
            class: "plain",
            text: "CSV",
            tip: "Save this selection as CSV",
            on: { click: () => probe.exportSelection(order, "csv") },
          }),
          el("button", {
            class: "plain",
            text: "JSON",
            tip: "Save this selection as JSON",
            on: { click: () => probe.exportSelection(order, "json") },
          }),
        ),
      ),
      el(
        "div",
        { class: "filters" },
        probe.filters(state, low, change),
      ),
      scroller,
      nothing,
    );
  };
})(window.probe);
