"use strict";
// Rows by what fires on them, in two dimensions: principal axes or UMAP, on a canvas.
(function (probe) {
  const { el } = probe;
  const COLOURS = [
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
  ];
  const NONE = 65535;

  // Names of the groups of a colouring, and the group of each row.
  function grouping(by, maps, sources) {
    const { input, position } = maps.columns;
    const textAt = (i) => {
      const source = sources[input[i]];
      return probe.tokenText(source.vocabulary, source.context.tokens[position[i]]);
    };
    if (by === "kind")
      return { names: probe.TOKEN_KINDS, of: [...input].map((_, i) => probe.tokenKind(textAt(i))) };
    const groups = [...new Set(sources.map((source) => source.group))].sort((a, b) => a - b);
    const place = new Map(groups.map((group, i) => [group, i]));
    return {
      names:
        by === "class"
          ? groups.map((group) => sources.find((source) => source.group === group).kind || "no class")
          : [],
      of: [...input].map((number) => place.get(sources[number].group)),
    };
  }

  // The level of a feature on each mapped row.
  async function levels(maps, feature) {
    const { input, position } = maps.columns;
    const found = new Map();
    for (const number of new Set(input))
      found.set(number, probe.levelsOf(await probe.explored(number), feature));
    return [...input].map((number, i) => found.get(number).get(position[i]) || 0);
  }

  // What a row is, for the line below the map: the token among its neighbours, or the patch of its image.
  function words(source, position) {
    if (!source.context) {
      const [rows, columns] = probe.report.manifest.layout.grid;
      const patch =
        rows * columns > 1 &&
        ` · patch in row ${Math.floor(position / columns) + 1}, column ${(position % columns) + 1}`;
      return [
        el("bdi", { text: source.title }),
        source.kind && [" · ", el("bdi", { text: source.kind })],
        patch,
      ];
    }
    const flat = (text) => probe.visible(text);
    const token = probe.tokenText(source.vocabulary, source.context.tokens[position]);
    return [
      el(
        "bdi",
        { class: "row-words" },
        flat(probe.textOf(source, Math.max(0, position - 8), position)),
        el("b", { text: flat(token) }),
        flat(probe.textOf(source, position + 1, position + 7)),
      ),
      el("span", { class: "where" }, " ", el("bdi", { text: source.title })),
    ];
  }

  // The panel. `state` holds map ("umap", "pca"), colour and f; `keep` puts it into the address.
  probe.rowsMap = async function (sources, state, keep) {
    const [list, maps] = await Promise.all([probe.explorer(), probe.load("explore/maps")]);
    const { input, position } = maps.columns;
    if (input.length === 0) return null;
    const isText = probe.report.manifest.kind === "text";
    const usual = isText ? "kind" : probe.report.marks ? "class" : "input";
    const canvas = el("canvas", {
      class: "rows-canvas",
      tabindex: "0",
      role: "img",
      "aria-label": "Map of rows. Left and right walk through them, Enter opens the input.",
      "aria-describedby": "row-said",
    });
    const said = el("p", { class: "row-said quiet", id: "row-said", role: "status" });
    const legend = el("div", { class: "legend groups" });
    const rest =
      "Near are rows on which similar features fire. Point at one to read it, click to open its input.";
    let cursor = null;
    let shade = null;
    let turn = 0;

    const where = (i) => {
      const places = maps.columns[state.map];
      const side = Math.min(canvas.clientWidth, canvas.clientHeight);
      const pad = 12;
      const x = (places[2 * i] / 65534 - 0.5) * (side - 2 * pad) + canvas.clientWidth / 2;
      return [x, canvas.clientHeight / 2 - (places[2 * i + 1] / 65534 - 0.5) * (side - 2 * pad)];
    };
    const isPlaced = (i) => maps.columns[state.map][2 * i] !== NONE;

    function draw() {
      if (!canvas.clientWidth || !shade) return;
      const ratio = devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * ratio;
      canvas.height = canvas.clientHeight * ratio;
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      const dot = (i, radius, colour) => {
        pen.beginPath();
        pen.arc(...where(i), radius, 0, 7);
        pen.fillStyle = colour;
        pen.fill();
      };
      for (const i of shade.order) {
        if (!isPlaced(i)) continue;
        pen.globalAlpha = shade.alpha(i);
        dot(i, shade.radius(i), shade.colour(i));
      }
      pen.globalAlpha = 1;
      if (cursor !== null) {
        dot(cursor, 7, probe.colour("ink"));
        dot(cursor, 5, shade.colour(cursor));
      }
      canvas.dataset.drawn = `${state.map} ${state.colour}`;
    }

    async function recolour() {
      const mine = ++turn;
      const order = [...input.keys()];
      if (state.colour === "feature" && state.f !== null) {
        const found = await levels(maps, state.f);
        if (mine !== turn) return;
        const [dot, flame, cold] = ["dot", "flame", "cold"].map(probe.colour);
        order.sort((a, b) => Math.abs(found[a]) - Math.abs(found[b]));
        shade = {
          order,
          colour: (i) => (found[i] > 0 ? flame : found[i] < 0 ? cold : dot),
          alpha: (i) => (found[i] ? 0.35 + 0.65 * Math.abs(found[i]) : 0.3),
          radius: (i) => (found[i] ? 2.5 + 2.5 * Math.abs(found[i]) : 1.8),
        };
        legend.replaceChildren(
          el("span", { class: "swatch fires" }),
          el(
            "a",
            { href: `#/feature/${state.f}` },
            el("span", { class: "id", text: `#${state.f}` }),
            " ",
            probe.nameOf(state.f, 3),
          ),
          el("span", { text: `fires on ${probe.number(found.filter(Boolean).length)} of these rows` }),
        );
      } else {
        const { names, of } = grouping(state.colour === "input" ? "input" : usual, maps, sources);
        const colour = (group) => COLOURS[group % COLOURS.length];
        shade = {
          order,
          colour: (i) => colour(of[i]),
          alpha: () => 0.75,
          radius: () => (order.length > 900 ? 2.4 : 3.2),
        };
        const present = [...new Set(of)].sort((a, b) => a - b);
        legend.replaceChildren(
          ...(names.length && present.length <= 24
            ? present.map((group) =>
                el(
                  "span",
                  { class: "group-name" },
                  el("i", { class: "swatch", style: { background: colour(group) } }),
                  el("bdi", { text: names[group] }),
                ),
              )
            : [
                el("span", {
                  text: `Each colour is ${names.length ? "a class" : "an input"}; colours repeat after ${COLOURS.length}.`,
                }),
              ]),
        );
      }
      draw();
    }

    function read(i) {
      cursor = i;
      said.replaceChildren(
        ...(i === null ? [rest] : words(sources[input[i]], position[i]).flat().filter(Boolean)),
      );
      draw();
    }
    const open = () => {
      if (cursor !== null) probe.go(`input/${sources[input[cursor]].rank}?at=${position[cursor]}`);
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      let [best, least] = [null, 150];
      for (let i = 0; i < input.length; i++) {
        if (!isPlaced(i)) continue;
        const [x, y] = where(i);
        const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
        if (far < least) [best, least] = [i, far];
      }
      canvas.style.cursor = best === null ? "default" : "pointer";
      if (best !== cursor) read(best);
    });
    canvas.addEventListener("pointerleave", () => read(null));
    canvas.addEventListener("click", open);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Enter") open();
      else if (step) read(cursor === null ? 0 : Math.max(0, Math.min(input.length - 1, cursor + step)));
      else return;
      event.preventDefault();
    });
    new ResizeObserver(draw).observe(canvas);
    const themed = () => (canvas.isConnected ? recolour() : removeEventListener("themechange", themed));
    addEventListener("themechange", themed);

    const field = el("input", {
      type: "text",
      inputmode: "numeric",
      class: "feature-field",
      placeholder: "feature",
      "aria-label": "Number of the feature that colours the map",
      value: state.f ?? "",
      hidden: state.colour !== "feature",
    });
    const set = (part) => {
      Object.assign(state, part);
      field.hidden = state.colour !== "feature";
      keep();
      recolour();
    };
    field.addEventListener("input", () => set({ f: probe.featureIn(field.value.trim().replace("#", "")) }));
    const colours = [
      usual !== "input" && [usual, isText ? "kind of token" : "class"],
      ["input", isText ? "text" : "image"],
      ["feature", "feature"],
    ].filter(Boolean);
    read(null);
    recolour();
    return el(
      "section",
      { class: "panel rows-panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: `Map of ${isText ? "tokens" : "rows"}` }),
        probe.options(
          "Map",
          [
            ["umap", "UMAP", "UMAP of the codes, by cosine"],
            ["pca", "PCA", "The two axes of most variance of the codes"],
          ],
          state.map,
          (map) => set({ map }),
        ),
      ),
      el(
        "div",
        { class: "rows-tools" },
        probe.options("Coloured by", colours, state.colour || usual, (colour) => {
          set({ colour });
          if (colour === "feature") field.focus();
        }),
        field,
      ),
      el("div", { class: "rows-frame" }, canvas),
      legend,
      said,
      el("p", {
        class: "quiet",
        text:
          input.length < list.mapped
            ? `${probe.number(input.length)} of the ${probe.number(list.mapped)} rows that the analysis mapped.`
            : `All ${probe.number(list.mapped)} rows that the analysis mapped.`,
      }),
    );
  };
})(window.probe);
