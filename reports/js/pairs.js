"use strict";
// The table of two dictionaries' features: only the rows in view exist.
(function (probe) {
  const { el } = probe;
  const { nameIn, idIn, saysSomething } = probe.inSides;
  const SPARE = 4;

  // What a feature has in the other dictionary: "same", a counterpart; "near", a feature as close
  // that is another's counterpart; "only", neither.
  const kindOf = (side, id, least) =>
    side.pairCosine(id) >= least ? "same" : side.bestCosine(id) >= least ? "near" : "only";

  // What the state leaves, as rows { a, b, cosine, kind }: `a` or `b` is null where there is none.
  function choose(found, state) {
    const least = Number(state.at);
    const { a, b } = found;
    const rows = [];
    const wants = (name, kind) =>
      ({ both: "same", near: "near", a: "a only", b: "b only" })[state.view] ===
        (kind === "only" ? `${name} only` : kind) || state.view === "all";
    for (const [name, side] of Object.entries(found))
      for (let id = 0; id < side.count; id++) {
        if (!side.firings(id)) continue;
        const kind = kindOf(side, id, least);
        if (!wants(name, kind) || (kind === "same" && name === "b")) continue;
        if (kind === "same") rows.push({ a: id, b: a.pair(id), cosine: a.pairCosine(id), kind });
        else rows.push({ a: null, b: null, [name]: id, cosine: side.bestCosine(id), kind });
      }
    const wanted = state.q.toLowerCase().trim().split(/\s+/).filter(Boolean);
    const text = (side, id) =>
      id === null ? "" : `${side.words(id)}\u001f${side.tokens(id).join("\u001f")}`.toLowerCase();
    const own = (id) => (id === null ? "" : probe.notes.get(id).label.toLowerCase());
    const kept = wanted.length
      ? rows.filter((row) => {
          const all = `${text(a, row.a)}\u001f${own(row.a)}\u001f${text(b, row.b)}`;
          return wanted.every((word) => {
            if (!/^#?\d+$/.test(word)) return all.includes(word);
            const number = Number(word.replace("#", ""));
            return row.a === number || row.b === number || (word[0] !== "#" && all.includes(word));
          });
        })
      : rows;
    const key = {
      cosine: (row) => row.cosine,
      a: (row) => (row.a === null ? Infinity : row.a),
      b: (row) => (row.b === null ? Infinity : row.b),
      density_a: (row) => (row.a === null ? -1 : a.density(row.a)),
      density_b: (row) => (row.b === null ? -1 : b.density(row.b)),
    };
    const name = state.sort.replace(/^-/, "");
    const value = key[name] || key.cosine;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    return kept
      .map((row) => [value(row), row])
      .sort((x, y) => sign * (x[0] - y[0]) || 0)
      .map(([, row]) => row);
  }

  // The strongest example of a feature of A, in a line.
  async function sample(id) {
    const [feature, vocabulary] = await Promise.all([probe.feature(id), probe.vocabulary()]);
    const tops = feature.examples.filter((example) => example.kind === "top");
    if (tops.length === 0) return el("span");
    if (probe.report.manifest.kind === "text") {
      const context = await probe.context(tops[0].context);
      return probe.excerpt(tops[0], context, feature, vocabulary, { width: "5", glyphs: false });
    }
    const pictures = await Promise.all(tops.slice(0, 4).map((example) => probe.picture(example.context)));
    return el(
      "span",
      { class: "thumbs" },
      pictures.map((picture, i) => probe.picturePlate(tops[i], picture, feature, vocabulary)),
    );
  }

  const HEADS = [
    ["a", "A · this dictionary", "Number of the feature of A"],
    ["density_a", "Density", "Share of A's rows on which the feature of A fires"],
    ["cosine", "Cosine", "Cosine of the two decoder directions; without a counterpart, that of the nearest"],
    ["b", "B · the other", "Number of the feature of B"],
    ["density_b", "Density", "Share of B's rows on which the feature of B fires"],
  ];

  function cells(found, row, samples) {
    const { a, b } = found;
    const cell = (side, id, other, extra) => {
      if (id !== null)
        return el("td", { class: "who" }, el("div", {}, idIn(side, id), " ", nameIn(side, id)), extra);
      const near = other.side.best(other.id);
      const taken = row.kind === "near" ? side.pair(near) : -1;
      return el(
        "td",
        { class: "who none" },
        el("div", {}, row.kind === "near" ? "nearest " : "none; nearest ", near >= 0 && idIn(side, near)),
        el(
          "div",
          { class: "near" },
          taken >= 0 ? ["counterpart of ", idIn(other.side, taken)] : near >= 0 && nameIn(side, near),
        ),
      );
    };
    const second = (id) =>
      saysSomething(b.words(id))
        ? el(
            "div",
            { class: "name" },
            b
              .tokens(id)
              .slice(0, 4)
              .map((text) => probe.chip(text)),
          )
        : el("div", {
            class: "quiet",
            text: b.tokens(id).length ? b.words(id).replace(/ \(.*/s, "") : "", // else it is the name
          });
    return [
      cell(
        a,
        row.a,
        { side: b, id: row.b },
        row.a !== null && (samples.get(row.a) || el("div", { class: "text" })),
      ),
      el("td", { class: "density", text: row.a === null ? "" : probe.percent(a.density(row.a)) }),
      el(
        "td",
        { class: row.kind === "same" ? "cosine" : "cosine quiet" },
        el("b", { text: row.cosine.toFixed(3) }),
        el(
          "span",
          { class: "meter", "aria-hidden": "true" },
          el("i", { style: { width: `${Math.max(0, row.cosine) * 100}%` } }),
        ),
      ),
      cell(b, row.b, { side: a, id: row.a }, row.b !== null && second(row.b)),
      el("td", { class: "density", text: row.b === null ? "" : probe.percent(b.density(row.b)) }),
    ];
  }

  // The table. `changed` is called with the number of rows whenever the selection changes.
  probe.pairTable = function (found, state, changed) {
    let [order, cursor, waiting, settled] = [[], -1, 0, 0];
    const samples = new Map();
    const HEIGHT = innerWidth <= 700 ? 88 : 66;
    const [top, end] = [el("tr", { "aria-hidden": "true" }), el("tr", { "aria-hidden": "true" })];
    const [body, heads] = [el("tbody"), el("tr", { "aria-rowindex": "1" })];
    const table = el(
      "table",
      { class: "features paired", "aria-label": "Features of both", style: { "--row": `${HEIGHT}px` } },
      el("thead", {}, heads),
      body,
    );
    const scroller = el(
      "div",
      {
        class: "scroller",
        id: "table",
        tabindex: "0",
        role: "region",
        "aria-label": "Features of both dictionaries",
      },
      table,
    );

    function drawHeads() {
      const [name, down] = [state.sort.replace("-", ""), state.sort.startsWith("-")];
      heads.replaceChildren(
        ...HEADS.map(([key, text, tip]) => {
          const active = key === name;
          const first = key.length === 1 ? key : `-${key}`;
          const press = () => change({ sort: !active ? first : down ? key : `-${key}` });
          const arrow = el("span", { "aria-hidden": "true", text: active ? (down ? " ↓" : " ↑") : "" });
          const kind = key.startsWith("density") ? "density" : key === "cosine" ? "cosine" : "who";
          return el(
            "th",
            { scope: "col", class: kind, "aria-sort": active ? (down ? "descending" : "ascending") : null },
            el("button", { class: "sort", tip, on: { click: press } }, text, arrow),
          );
        }),
      );
    }
    const view = () => {
      const first = Math.max(0, Math.floor(scroller.scrollTop / HEIGHT) - SPARE);
      const last = Math.ceil((scroller.scrollTop + (scroller.clientHeight || 600)) / HEIGHT) + SPARE;
      return [first, Math.min(order.length, last)];
    };
    function drawRows() {
      const [first, last] = view();
      top.style.height = `${first * HEIGHT}px`;
      end.style.height = `${(order.length - last) * HEIGHT}px`;
      const one = (row, i) =>
        el(
          "tr",
          {
            "aria-rowindex": first + i + 2,
            "data-a": row.a,
            "data-b": row.b,
            class: first + i === cursor ? "cursor" : null,
            "aria-current": first + i === cursor ? "true" : null,
          },
          cells(found, row, samples),
        );
      body.replaceChildren(top, ...order.slice(first, last).map(one), end);
      clearTimeout(settled);
      settled = setTimeout(fill, 60);
    }
    async function fill() {
      const [first, last] = view();
      const ids = order.slice(first, last).map((row) => row.a);
      const missing = ids.filter((id) => id !== null && !samples.has(id));
      if (missing.length === 0) return;
      if (samples.size > 400) samples.clear();
      try {
        await Promise.all(missing.map(async (id) => samples.set(id, await sample(id))));
      } catch (error) {
        probe.say(error.message);
        return;
      }
      if (scroller.isConnected) drawRows();
      scroller.dataset.filled = "1";
    }
    function change(part) {
      Object.assign(state, part);
      scroller.scrollTop = 0;
      draw();
    }
    function draw() {
      order = choose(found, state);
      cursor = -1;
      table.setAttribute("aria-rowcount", order.length + 1);
      drawHeads();
      drawRows();
      changed(order.length);
    }
    const open = (row) => row && row.a !== null && probe.go(`feature/${row.a}`);
    body.addEventListener("click", (event) => {
      const line = event.target.closest("tr[data-a]");
      if (line && !event.target.closest("a") && !String(getSelection()))
        probe.go(`feature/${line.dataset.a}`);
    });
    scroller.addEventListener("scroll", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(drawRows);
    });
    const keys = (event) => {
      const busy = event.target.closest("input, textarea, select, button, a, dialog");
      if (busy || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter") open(order[cursor]);
      if (event.key !== "j" && event.key !== "k") return;
      cursor = Math.max(0, Math.min(order.length - 1, cursor + (event.key === "j" ? 1 : -1)));
      const [place, room] = [cursor * HEIGHT, scroller.clientHeight - 2 * HEIGHT];
      if (place < scroller.scrollTop) scroller.scrollTop = place;
      if (place > scroller.scrollTop + room) scroller.scrollTop = place - room;
      drawRows();
    };
    const sized = new ResizeObserver(drawRows);
    sized.observe(scroller);
    addEventListener("keydown", keys);
    const stop = () => {
      sized.disconnect();
      removeEventListener("keydown", keys);
    };
    draw();
    return { scroller, change, stop };
  };
})(window.probe);
