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
    const { modules, alive } = probe.report.manifest;
    document.title = "Modules · probe_sae";
    const inside = modules.reduce((sum, { size }) => sum + size, 0);
    return el(
      "div",
      { class: "page modules" },
      el("h1", { text: "Modules" }),
      el("p", {
        class: "lead",
        text: modules.length
          ? `${probe.number(modules.length)} communities of features that fire on the same rows more than chance would have it. ${probe.number(inside)} of ${probe.number(alive)} features that fire belong to one. Each is shown with the tokens that are commonest for most of its members.`
          : "No community of features that fire together was found.",
      }),
      el(
        "ul",
        { class: "module-list" },
        modules.slice(0, 300).map(({ module, size, mean_density: density }) =>
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
                text: ` ${probe.number(size)} features · mean density ${probe.percent(density)}`,
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

  // Phi between the members that are each other's strongest mates, as a square of cells.
  async function together(features) {
    const shown = features.slice(0, 40);
    const rank = new Map(shown.map((id, i) => [id, i]));
    const all = await Promise.all(shown.map(probe.feature));
    const size = shown.length;
    const pairs = new Map();
    for (const feature of all) {
      for (const [id, phi, count] of feature.cofiring) {
        if (!rank.has(id) || !(phi > 0)) continue;
        pairs.set(`${feature.id} ${id}`, [feature.id, id, phi, count]);
        pairs.set(`${id} ${feature.id}`, [id, feature.id, phi, count]);
      }
    }
    const said = (id) => `#${id} ${probe.tokensOf(id).slice(0, 2).join(" · ")}`;
    const cells = [...pairs.values()].map(([a, b, phi, count]) =>
      el("a", {
        href: `#/feature/${b}`,
        class: "cell",
        tabindex: "-1",
        "aria-label": `#${a} and #${b}: phi ${probe.number(phi, 2)}`,
        style: {
          "grid-row": rank.get(a) + 1,
          "grid-column": rank.get(b) + 1,
          "--level": Math.min(1, phi).toFixed(3),
        },
        tip: [said(a), said(b), `phi ${probe.number(phi)}, ${probe.number(count)} rows together`],
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
        ` between the ${size} densest members, where it is among a member's strongest; densest first.`,
      ),
      el("div", { class: "matrix", style: { "--size": size } }, cells),
    );
  }

  probe.module = async function (route) {
    const found = probe.report.manifest.modules.find(({ module }) => String(module) === route.path[1]);
    if (!found) {
      return el(
        "section",
        { class: "problem" },
        el("h2", { text: "No such module" }),
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
        await together(members),
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
