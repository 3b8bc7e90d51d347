"use strict";
// Modules: communities of features that fire together.
(function (probe) {
  const { el } = probe;

  const names = (features, most) =>
    features
      .slice(0, most)
      .map((id) =>
        el(
          "a",
          { class: "member", href: `#/feature/${id}` },
          el("span", { class: "id", text: `#${id}` }),
          probe.nameOf(id, 2),
        ),
      );

  probe.modules = async function () {
    const { modules, alive, structure } = probe.report.manifest;
    const { marks } = probe.report;
    document.title = "Modules · probe_sae";
    const inside = modules.reduce((sum, { size }) => sum + size, 0);
    return el(
      "div",
      { class: "page modules" },
      el("h1", { text: "Modules" }),
      el("p", {
        class: "lead",
        text: modules.length
          ? `${probe.number(modules.length)} communities of features that fire on the same rows more than chance would have it. ${probe.number(inside)} of ${probe.number(alive)} features that fire belong to one.${marks ? ` Each is shown with the ${marks.many} that are commonest for most of its members.` : ""}`
          : "No community of features that fire together was found.",
      }),
      Number.isFinite(structure.modularity) &&
        el("p", {
          class: "quiet",
          text: `Modularity ${probe.number(structure.modularity, 2)}; runs with other seeds agree by ${probe.number(structure.seed_agreement, 2)}, clusters of decoder directions by ${probe.number(structure.agreement_with_groups, 2)} (adjusted mutual information: 1 is the same, 0 is chance).`,
        }),
      el(
        "ul",
        { class: "module-list" },
        modules.slice(0, 300).map(({ module, size, mean_density: density, cohesion }) =>
          el(
            "li",
            { class: "card" },
            el(
              "a",
              { class: "card-link", href: `#/module/${module}` },
              el("b", { text: `Module ${module}` }),
              probe.tokensOfModule(module).map((text) => probe.chip(text)),
              el("span", {
                class: "quiet",
                text: ` ${probe.number(size)} features · mean density ${probe.percent(density)}${Number.isFinite(cohesion) ? ` · cohesion ${probe.number(cohesion, 2)}` : ""}`,
              }),
            ),
            el(
              "div",
              { class: "members" },
              names(probe.members(module), 8),
              size > 8 && el("span", { class: "quiet", text: `+ ${probe.number(size - 8)}` }),
            ),
          ),
        ),
      ),
      modules.length > 300 &&
        el("p", {
          class: "quiet",
          text: `The ${probe.number(modules.length - 300)} smallest are not shown here; the list filters by module.`,
        }),
    );
  };

  // Who fires with whom: of each feature, the members of its module and their phi.
  async function pairsOf(features) {
    const { columns } = await probe.load("together");
    if (!columns.starts) {
      columns.starts = new Uint32Array(columns.counts.length + 1);
      for (let i = 0; i < columns.counts.length; i++)
        columns.starts[i + 1] = columns.starts[i] + columns.counts[i];
    }
    const found = new Map();
    for (const id of features) {
      for (let at = columns.starts[id]; at < columns.starts[id + 1]; at++)
        found.set(`${id} ${columns.seconds[at]}`, columns.phis[at] / 32767);
    }
    return found;
  }

  // Phi between the densest members, as a square of cells.
  async function together(features) {
    const shown = features.slice(0, 60);
    const pairs = await pairsOf(shown);
    const size = shown.length;
    const said = (id) => `#${id} ${probe.tokensOf(id).slice(0, 2).join(" · ")}`;
    const cells = shown.flatMap((a, i) =>
      shown.map((b, j) => {
        const phi = pairs.get(`${a} ${b}`) ?? pairs.get(`${b} ${a}`);
        if (i === j || phi === undefined || phi <= 0.005) return null;
        return el("a", {
          href: `#/feature/${b}`,
          class: "cell",
          tabindex: "-1",
          "aria-label": `#${a} and #${b}: phi ${probe.number(phi, 2)}`,
          style: {
            "grid-row": i + 1,
            "grid-column": j + 1,
            "--level": Math.min(1, Math.sqrt(phi)).toFixed(3),
          },
          tip: [said(a), said(b), `phi ${probe.number(phi)}`],
        });
      }),
    );
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "Who fires with whom" }),
      el(
        "p",
        { class: "quiet" },
        probe.term("Phi", "phi"),
        ` between ${size < features.length ? `the ${size} densest members` : "all members"}, densest first; darker is more.`,
      ),
      el("div", { class: "matrix", style: { "--size": size } }, cells),
    );
  }

  // The modules whose members fire with this one's most.
  async function links(module) {
    const { columns } = await probe.load("together");
    let start = 0;
    for (let i = 0; i < module; i++) start += columns.link_counts[i];
    const found = [];
    for (let at = start; at < start + (columns.link_counts[module] || 0); at++)
      found.push([columns.link_modules[at], columns.link_phis[at] / 32767]);
    const shown = found.filter(([, phi]) => phi > 0);
    if (shown.length === 0) return null;
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "Modules beside it" }),
      el("p", { class: "quiet", text: "Mean phi between the members of both." }),
      el(
        "ul",
        { class: "related" },
        shown.map(([other, phi]) =>
          el(
            "li",
            {},
            el(
              "a",
              { href: `#/module/${other}` },
              el("span", { class: "id", text: other }),
              el(
                "span",
                { class: "name" },
                probe.tokensOfModule(other).map((text) => probe.chip(text)),
              ),
            ),
            el("span", { class: "figure", text: probe.number(phi, 2) }),
          ),
        ),
      ),
    );
  }

  // Figures of trust of a module.
  const figures = (found) =>
    el(
      "dl",
      { class: "cards" },
      ["cohesion", "separation", "stability"]
        .filter((name) => Number.isFinite(found[name]))
        .map((name) =>
          el(
            "div",
            {},
            el("dt", {}, probe.term(name[0].toUpperCase() + name.slice(1), name)),
            el("dd", { text: probe.number(found[name], 2) }),
          ),
        ),
    );

  probe.module = async function (route) {
    const found = probe.report.manifest.modules.find(({ module }) => String(module) === route.path[1]);
    if (!found) {
      return el(
        "section",
        { class: "problem" },
        el("h1", { text: "No such module" }),
        el("p", {}, el("a", { href: "#/modules", text: "To the modules" })),
      );
    }
    document.title = `Module ${found.module} · probe_sae`;
    const members = probe.members(found.module);
    probe.order = members;
    return el(
      "div",
      { class: "page modules" },
      el("p", { class: "eyebrow" }, el("a", { href: "#/modules", text: "Modules" })),
      el(
        "h1",
        {},
        `Module ${found.module} `,
        el(
          "span",
          { class: "name" },
          probe.tokensOfModule(found.module).map((text) => probe.chip(text)),
        ),
      ),
      el("p", {
        class: "lead",
        text: `${probe.number(found.size)} features that fire together, on ${probe.percent(found.mean_density)} of the rows each on average.`,
      }),
      figures(found),
      el(
        "p",
        { class: "buttons" },
        el("a", { class: "button", href: `#/features?module=${found.module}`, text: "As a list" }),
        el("a", {
          class: "button",
          href: `map.html#?colour=module&module=${found.module}`,
          text: "On the map",
        }),
      ),
      el(
        "div",
        { class: "columns" },
        el("div", { class: "stack" }, await together(members), await links(found.module)),
        el(
          "section",
          { class: "panel" },
          el("h2", { text: "Members" }),
          el(
            "ul",
            { class: "related" },
            members
              .slice(0, 200)
              .map((id) =>
                el(
                  "li",
                  {},
                  el(
                    "a",
                    { href: `#/feature/${id}` },
                    el("span", { class: "id", text: `#${id}` }),
                    probe.nameOf(id, 3),
                  ),
                  el("span", { class: "figure", text: probe.percent(probe.density(id)) }),
                ),
              ),
          ),
          found.size > 200 &&
            el("p", {
              class: "quiet",
              text: `And ${probe.number(found.size - 200)} more: see them as a list.`,
            }),
        ),
      ),
    );
  };
})(window.probe);
