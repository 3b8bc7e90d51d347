"use strict";
// The page of one feature.
(function (probe) {
  const { el, panels } = probe;

  function neighbours(id) {
    const order = probe.order && probe.order.length > 1 && probe.order.includes(id) ? probe.order : null;
    if (order) {
      const at = order.indexOf(id);
      return {
        before: order[at - 1],
        after: order[at + 1],
        text: `${probe.number(at + 1)} of ${probe.number(order.length)} in the list`,
      };
    }
    return {
      before: id > 0 ? id - 1 : undefined,
      after: id + 1 < probe.report.count ? id + 1 : undefined,
      text: "",
    };
  }

  function top(feature) {
    const { before, after, text } = neighbours(feature.id);
    const step = (target, ...said) =>
      probe.step(target === undefined ? null : `#/feature/${target}`, ...said);
    return el(
      "div",
      { class: "feature-head" },
      el(
        "div",
        {},
        el(
          "p",
          { class: "eyebrow" },
          el("a", { href: "#/features", text: "Features" }),
          text && ` · ${text}`,
        ),
        el("h1", {}, `#${feature.id} `, probe.nameOf(feature.id, 4)),
      ),
      el(
        "div",
        { class: "buttons" },
        step(before, "‹", "Previous feature", "p"),
        step(after, "›", "Next feature", "n"),
        el("button", { text: "Random", tip: "A feature at random (r)", on: { click: probe.random } }),
      ),
    );
  }

  function noteForm(id) {
    const note = probe.notes.get(id);
    const star = el("button", {
      class: "icon",
      "aria-pressed": String(note.star),
      "aria-label": "Star",
      tip: "Star this feature",
      text: note.star ? "★" : "☆",
    });
    star.addEventListener("click", () => {
      probe.notes.set(id, { star: !probe.notes.get(id).star });
      star.textContent = probe.notes.get(id).star ? "★" : "☆";
      star.setAttribute("aria-pressed", String(probe.notes.get(id).star));
    });
    const label = el("input", {
      type: "text",
      value: note.label,
      placeholder: "Your label",
      "aria-label": "Your label",
      maxlength: "200",
    });
    const text = el("textarea", { rows: "1", placeholder: "Your notes", "aria-label": "Your notes" });
    text.value = note.note;
    label.addEventListener("change", () => {
      probe.notes.set(id, { label: label.value.trim() });
      document.querySelector(".feature-head h1 .name")?.replaceWith(probe.nameOf(id, 4));
    });
    text.addEventListener("change", () => probe.notes.set(id, { note: text.value }));
    return el("div", { class: "note" }, star, label, text);
  }

  // What stands in relation to the feature.
  const relatives = (feature, counterpart) => [
    panels.related(
      "Fire together",
      ["Features that fire on the same rows, by ", probe.term("phi", "phi"), "."],
      feature.cofiring,
      (pair) => pair[1],
      (pair) => `${probe.number(pair[2])} rows on which both fire`,
    ),
    panels.related(
      "In the next site",
      ["Features of the next dictionary that fire on the same rows, by ", probe.term("phi", "phi"), "."],
      feature.followed,
      (pair) => pair[1],
      (pair) => `phi ${probe.number(pair[1])}`,
    ),
    panels.places(feature),
    panels.neurons(feature),
    panels.related(
      "Nearest directions",
      "Cosine of the decoder directions.",
      feature.nearest,
      (pair) => pair[1],
      (pair) => `cosine ${probe.number(pair[1], 4)}`,
    ),
    counterpart,
    panels.miniMap(feature),
  ];

  probe.featurePage = async function (route) {
    const id = Number(route.path[1]);
    if (!Number.isInteger(id) || id < 0 || id >= probe.report.count) {
      return el(
        "section",
        { class: "problem" },
        el("h1", { text: "No such feature" }),
        el("p", { text: `This dictionary has features 0 to ${probe.report.count - 1}.` }),
        el("p", {}, el("a", { href: "#/features", text: "To the list" })),
      );
    }
    const [feature, vocabulary, asImage, counterpart] = await Promise.all([
      probe.feature(id),
      probe.vocabulary(),
      probe.pixelPanel(id),
      probe.counterpart(id),
    ]);
    const given = (name, allowed, usual) =>
      allowed.includes(route.query.get(name)) ? route.query.get(name) : usual;
    const state = {
      tab: given("tab", ["top", "groups", "random"], "top"),
      ws: route.query.get("ws") === "1" ? "1" : "",
      ctx: given("ctx", ["5", "16", "full"], probe.recall("probe_sae.context") || "16"),
      heat: route.query.get("heat") || "0.65",
      zoom: given("zoom", ["1", "3", "6"], probe.usualZoom()),
    };
    const keep = (now) => {
      probe.remember("probe_sae.context", now.ctx);
      probe.keep(
        `feature/${id}`,
        probe.report.manifest.kind === "text"
          ? { tab: now.tab === "top" ? "" : now.tab, ctx: now.ctx, ws: now.ws }
          : {
              tab: now.tab === "top" ? "" : now.tab,
              heat: now.heat === "0.65" ? "" : now.heat,
              zoom: now.zoom === probe.usualZoom() ? "" : now.zoom,
            },
      );
    };
    const keys = (event) => {
      if (
        event.target.closest("input, textarea, select, dialog") ||
        event.ctrlKey ||
        event.metaKey ||
        event.altKey
      )
        return;
      const { before, after } = neighbours(id);
      const target = { n: after, p: before }[event.key];
      if (target !== undefined) location.hash = `#/feature/${target}`;
    };
    addEventListener("keydown", keys);
    probe.leave = () => removeEventListener("keydown", keys);
    document.title = `#${id} ${probe.notes.get(id).label || (probe.labelOf(id).isClear && probe.labelOf(id).text) || probe.tokensOf(id).slice(0, 3).join(" · ")} · probe_sae`;
    const isText = probe.report.manifest.kind === "text";
    return el(
      "div",
      { class: "page feature" },
      top(feature),
      noteForm(id),
      el(
        "div",
        { class: isText ? "split" : "split wide-examples" },
        el(
          "div",
          { class: "left" },
          probe.examples(feature, state, keep),
          panels.effects(feature, vocabulary),
        ),
        el(
          "div",
          { class: "right" },
          asImage,
          panels.label(feature),
          panels.statistics(feature),
          panels.tokenTable(feature, vocabulary),
          isText && relatives(feature, counterpart),
        ),
        !isText && el("div", { class: "under" }, relatives(feature, counterpart)),
      ),
    );
  };
})(window.probe);
