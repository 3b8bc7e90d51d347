"use strict";
// The list of sampled inputs, with a search and an order, beside the map of their rows.
(function (probe) {
  const { el } = probe;
  const ORDERS = [
    ["", "in order", () => 0],
    ["long", "longest first", (list, i) => -list.columns.rows[i]],
    ["features", "most features first", (list, i) => -list.columns.features[i]],
    [
      "dense",
      "most firings a row first",
      (list, i) => -list.columns.firings[i] / (list.columns.rows[i] || 1),
    ],
  ];

  function textItem(source, list, i) {
    const text = probe
      .textOf(source, 0, 90)
      .trim()
      .replace(/\s*\n\s*/g, " ↵ ");
    return el(
      "li",
      {},
      el(
        "a",
        { class: "input-link", href: `#/input/${source.rank}` },
        el(
          "span",
          { class: "input-title" },
          el("bdi", { text: source.title }),
          el("span", {
            class: "quiet",
            text: source.context.start ? ` · token ${probe.number(source.context.start)}` : "",
          }),
        ),
        el("span", {
          class: "quiet figure",
          text: `${probe.number(list.columns.rows[i])} tokens · ${probe.number(list.columns.features[i])} features`,
        }),
        el("bdi", { class: "snippet", text: probe.visible(text) }),
      ),
    );
  }

  function pictureItem(source, list, i) {
    return el(
      "li",
      {},
      el(
        "a",
        {
          class: "input-picture",
          href: `#/input/${source.rank}`,
          tip: [source.title, `${probe.number(list.columns.features[i])} features fire`],
        },
        el(
          "span",
          {
            class: "picture",
            style: { "aspect-ratio": `${source.picture.width} / ${source.picture.height}` },
          },
          probe.drawPicture(source.picture, ""),
        ),
        el("bdi", { class: "caption", text: source.kind || source.title }),
        el("span", { class: "skip-visually", text: `, ${source.title}` }),
      ),
    );
  }

  // What a search looks through, in small letters.
  const haystack = (source) =>
    `${source.title}\n${source.context ? probe.textOf(source) : source.kind}`.toLowerCase();

  probe.inputsPage = async function (route) {
    const list = await probe.explorer();
    const sources = await probe.sources();
    const isText = probe.report.manifest.kind === "text";
    const given = (name, allowed, usual) =>
      allowed.includes(route.query.get(name)) ? route.query.get(name) : usual;
    const state = {
      q: route.query.get("q") || "",
      sort: given(
        "sort",
        ORDERS.map(([name]) => name),
        "",
      ),
      map: given("map", ["umap", "pca"], "umap"),
      colour: given("colour", ["input", "feature"], ""),
      f: probe.featureIn(route.query.get("f")),
    };
    const keep = () =>
      probe.keep("inputs", {
        ...state,
        map: state.map === "umap" ? "" : state.map,
        colour: ["input", "feature"].includes(state.colour) ? state.colour : "",
        f: state.colour === "feature" ? state.f : "",
      });
    const found = el("ul", { class: isText ? "input-list" : "input-grid" });
    const count = el("p", { class: "count", role: "status" });
    const nothing = el("p", { class: "nothing", hidden: true, text: "No input matches the search." });
    const items = new Map();
    const item = (i) => {
      if (!items.has(i)) items.set(i, (isText ? textItem : pictureItem)(sources[i], list, i));
      return items.get(i);
    };
    let haystacks = null;
    function draw() {
      const wanted = state.q.toLowerCase().trim();
      if (wanted) haystacks ||= sources.map(haystack);
      const [, , key] = ORDERS.find(([name]) => name === state.sort);
      const kept = [...sources.keys()].filter((i) => !wanted || haystacks[i].includes(wanted));
      kept.sort((a, b) => key(list, a) - key(list, b) || a - b);
      found.replaceChildren(...kept.map(item));
      count.replaceChildren(el("b", { text: probe.number(kept.length) }), ` of ${probe.number(list.count)}`);
      nothing.hidden = kept.length > 0;
    }
    const search = el("input", {
      type: "search",
      placeholder: isText ? "Search text or document" : "Search class or name",
      "aria-label": "Search the inputs",
      value: state.q,
      autocomplete: "off",
      spellcheck: "false",
    });
    search.addEventListener("input", () => {
      state.q = search.value;
      keep();
      draw();
    });
    const order = el(
      "select",
      { "aria-label": "Order" },
      ORDERS.filter(([name]) => isText || ["", "features"].includes(name)).map(([value, text]) =>
        el("option", { value, text }),
      ),
    );
    order.value = state.sort;
    order.addEventListener("change", () => {
      state.sort = order.value;
      keep();
      draw();
    });
    draw();
    const map = await probe.rowsMap(sources, state, keep);
    const rows = list.columns.rows.reduce((a, b) => a + b, 0);
    const left =
      list.sampled > list.count
        ? ` (of the ${probe.number(list.sampled)} that the analysis sampled, so that the report stays small)`
        : "";
    document.title = "Inputs · probe_sae";
    return el(
      "div",
      { class: "page inputs" },
      el("h1", { text: "Inputs" }),
      el(
        "p",
        { class: "lead" },
        el("b", { text: probe.number(list.count) }),
        ` ${isText ? "pieces of text" : "images"} drawn at random${left}, with everything that fires on `,
        ...(rows > list.count
          ? [
              "their ",
              el("b", { text: probe.number(rows) }),
              ` ${probe.rowsWord()}. Open one to see which features fire where.`,
            ]
          : ["them. Open one to see which features fire."]),
      ),
      list.count === 0
        ? el("p", { class: "nothing", text: "The analysis holds no sampled inputs." })
        : el(
            "div",
            { class: "inputs-split" },
            el(
              "div",
              { class: "inputs-left" },
              el("div", { class: "filters" }, search, order, count),
              found,
              nothing,
            ),
            map && el("div", { class: "inputs-right" }, map),
          ),
    );
  };
})(window.probe);
