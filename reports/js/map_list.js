"use strict";
// The list beside the map: what was found or chosen there.
(function (probe) {
  const { el } = probe;
  const MOST = 200;
  const side = el("aside", { class: "map-side", "aria-label": "Chosen features" });
  const title = el("h2", { role: "status" });

  // Show these features, densest first; `how` says how they came to be here: "in the lasso".
  function draw(ids, how) {
    const sorted = [...ids].sort((a, b) => probe.report.index.firings[b] - probe.report.index.firings[a]);
    side.hidden = sorted.length === 0;
    const save = (kind) =>
      el("button", {
        class: "plain",
        text: kind.toUpperCase(),
        on: { click: () => probe.exportSelection(sorted, kind) },
      });
    title.textContent = `${probe.number(sorted.length)} ${how}`;
    side.replaceChildren(
      title,
      el("p", { class: "buttons" }, save("csv"), save("json")),
      el("ul", { class: "related" }, sorted.slice(0, MOST).map(line)),
      (sorted.length > MOST && el("p", { class: "quiet", text: `The ${MOST} densest are shown.` })) || "",
    );
  }
  const line = (id) =>
    el(
      "li",
      {},
      el(
        "a",
        { href: `index.html#/feature/${id}` },
        el("span", { class: "id", text: `#${id}` }),
        probe.nameOf(id, 3),
      ),
      el("span", { class: "figure", text: probe.percent(probe.density(id)) }),
    );

  probe.mapList = { side, draw };
})(window.probe);
