"use strict";
// The first page: what was looked into, how good the dictionary is, where to start.
(function (probe) {
  const { el } = probe;
  const { line, isTable, checks, densityPlot, trainingPlots } = probe.quality;
  const { cards, table } = probe.metrics;
  const first = (value) => (isTable(value) ? (value.name ?? value.id ?? value.arch ?? line(value)) : value);

  function hero(manifest) {
    const sae = isTable(manifest.sae) ? manifest.sae : {};
    return el(
      "section",
      { class: "hero" },
      el("p", { class: "eyebrow", text: "Sparse autoencoder report" }),
      el("h1", {}, el("bdi", { text: manifest.site || "Features" })),
      el(
        "p",
        { class: "lead" },
        el("b", { text: probe.number(manifest.features) }),
        " features",
        sae.arch && [" learned by a ", el("b", { text: sae.arch }), " autoencoder"],
        manifest.host && [
          " from the activations of ",
          el("bdi", { class: "em", text: line(first(manifest.host)) }),
        ],
        manifest.dataset && [" on ", el("bdi", { class: "em", text: line(first(manifest.dataset)) })],
        ". ",
        el("b", { text: probe.number(manifest.alive) }),
        " of them fire on the ",
        el("b", { text: probe.number(manifest.rows) }),
        ` ${manifest.kind === "image" ? "rows" : "tokens"} analysed; `,
        el("b", { text: probe.number(manifest.labels.clear) }),
        " have a label that tells when.",
      ),
      el(
        "p",
        { class: "buttons" },
        el("a", { class: "button main", href: "#/features", text: "Browse features" }),
        el("a", { class: "button", href: "map.html", text: "Open the map" }),
        el("button", { text: "One at random", on: { click: probe.random } }),
      ),
    );
  }

  async function startCard(id) {
    const [feature, vocabulary] = await Promise.all([probe.feature(id), probe.vocabulary()]);
    const tops = feature.examples.filter((example) => example.kind === "top");
    const body = el("div", { class: "sample" });
    if (probe.report.manifest.kind === "text") {
      const pairs = await Promise.all(
        tops.slice(0, 8).map(async (example) => ({ example, context: await probe.context(example.context) })),
      );
      body.append(
        ...probe
          .fold(pairs)
          .slice(0, 3)
          .map(({ example, context }) =>
            probe.excerpt(example, context, feature, vocabulary, { width: "5", glyphs: false }),
          ),
      );
    } else {
      const plates = await Promise.all(
        tops
          .slice(0, 4)
          .map(async (example) =>
            probe.picturePlate(example, await probe.picture(example.context), feature, vocabulary),
          ),
      );
      body.append(el("div", { class: "plates small" }, plates));
    }
    return el(
      "li",
      { class: "card" },
      el(
        "a",
        { class: "card-link", href: `#/feature/${id}` },
        el("span", { class: "id", text: `#${id}` }),
        probe.nameOf(id),
      ),
      body,
      el("p", { class: "quiet", text: `fires on ${probe.percent(feature.density)} of rows` }),
    );
  }

  function starts(ids) {
    if (ids.length === 0) return null;
    const { marks } = probe.report;
    const list = el(
      "ul",
      { class: "start" },
      ids.map(() => el("li", { class: "card waiting" })),
    );
    probe.later(async () => {
      const slots = [...list.children];
      await Promise.all(
        ids.map(async (id, i) => {
          try {
            slots[i].replaceWith(await startCard(id));
          } catch (error) {
            slots[i].replaceChildren(probe.problem(error));
          }
        }),
      );
    });
    return el(
      "section",
      {},
      el("h2", { text: "Good places to start" }),
      el("p", {
        class: "quiet",
        text: `From the rarest to the densest features; in each part, the one ${marks ? `most about a single ${marks.one}` : "whose label fits best"}. Chosen to be clear, so not typical: open one at random for a fair look.`,
      }),
      list,
    );
  }

  function facts(manifest) {
    const pair = ([key, item]) => {
      const whole = line(item);
      const isDigest = /^[0-9a-f]{24,}$/.test(whole);
      return el(
        "span",
        { class: "pair" },
        el("i", { text: key.replace(/_/g, " ") }),
        " ",
        isDigest
          ? el("span", { class: "term", tabindex: "0", tip: whole, text: whole.slice(0, 12) })
          : el("bdi", { text: whole }),
      );
    };
    const byName = ([a], [b]) => (b === "name") - (a === "name");
    const names = ["host", "site", "dataset", "split", "rows", "contexts", "store", "sae", "versions"];
    return el(
      "section",
      { class: "panel" },
      el("h3", { text: "What this is about" }),
      el(
        "dl",
        { class: "facts" },
        names
          .filter((name) => manifest[name] !== null && manifest[name] !== undefined)
          .map((name) => [
            el("dt", { text: name === "sae" ? "SAE" : name }),
            el(
              "dd",
              {},
              isTable(manifest[name])
                ? Object.entries(manifest[name]).sort(byName).map(pair)
                : el("bdi", { text: line(manifest[name]) }),
            ),
          ]),
      ),
    );
  }

  probe.overview = async function () {
    const { manifest } = probe.report;
    const [training, pixels] = await Promise.all([probe.load("train"), probe.pixelSection()]);
    const { metrics } = manifest;
    const rows = metrics.rows_evaluated;
    document.title = `${manifest.site || "Overview"} · probe_sae`;
    return el(
      "div",
      { class: "page overview" },
      hero(manifest),
      el(
        "section",
        {},
        el("h2", { text: "How good is it?" }),
        el("p", {
          class: "quiet",
          text: `Measured on ${rows ? `${probe.number(rows)} ` : ""}${manifest.measured_on}. Thresholds are rules of thumb. Hover or focus a dotted word for its definition.`,
        }),
        cards(metrics),
        checks(manifest.checks),
      ),
      table(metrics),
      pixels,
      starts(manifest.start),
      el("h2", { text: "The dictionary as a whole" }),
      el(
        "div",
        { class: "columns" },
        el("div", { class: "stack" }, densityPlot(manifest), facts(manifest)),
        el("div", { class: "stack" }, trainingPlots(training)),
      ),
    );
  };
})(window.probe);
