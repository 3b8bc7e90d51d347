"use strict";
// The page of one feature.
(function (probe) {
  const { el } = probe;

  function neighbours(id) {
    const order = probe.order && probe.order.length > 1 && probe.order.includes(id) ? probe.order : null;
    if (order) {
      const at = order.indexOf(id);
      return { before: order[at - 1], after: order[at + 1], text: `${probe.number(at + 1)} of ${probe.number(order.length)} in the list` };
    }
    return { before: id > 0 ? id - 1 : undefined, after: id + 1 < probe.report.count ? id + 1 : undefined, text: "" };
  }

  function top(feature) {
    const { before, after, text } = neighbours(feature.id);
    const step = (target, sign, name, key) => el("a", {
      class: "button icon", href: target === undefined ? null : `#/feature/${target}`, "aria-label": name, tip: `${name} (${key})`,
      "aria-disabled": target === undefined ? "true" : null, text: sign,
    });
    return el("div", { class: "feature-head" },
      el("div", {},
        el("p", { class: "eyebrow" }, el("a", { href: "#/features", text: "Features" }), text && ` · ${text}`),
        el("h1", {}, `#${feature.id} `, probe.nameOf(feature.id, 4))),
      el("div", { class: "buttons" }, step(before, "‹", "Previous feature", "p"), step(after, "›", "Next feature", "n"),
        el("button", { text: "Random", tip: "A feature at random (r)", on: { click: probe.random } })));
  }

  function noteForm(id) {
    const note = probe.notes.get(id);
    const star = el("button", { class: "icon", "aria-pressed": String(note.star), "aria-label": "Star", tip: "Star this feature", text: note.star ? "★" : "☆" });
    star.addEventListener("click", () => {
      probe.notes.set(id, { star: !probe.notes.get(id).star });
      star.textContent = probe.notes.get(id).star ? "★" : "☆";
      star.setAttribute("aria-pressed", String(probe.notes.get(id).star));
    });
    const label = el("input", { type: "text", value: note.label, placeholder: "Your label", "aria-label": "Your label", maxlength: "200" });
    const text = el("textarea", { rows: "1", placeholder: "Your notes", "aria-label": "Your notes" });
    text.value = note.note;
    label.addEventListener("change", () => {
      probe.notes.set(id, { label: label.value.trim() });
      document.querySelector(".feature-head h1 .name")?.replaceWith(probe.nameOf(id, 4));
    });
    text.addEventListener("change", () => probe.notes.set(id, { note: text.value }));
    return el("div", { class: "note" }, star, label, text);
  }

  function statistics(feature) {
    const [q10, q25, q50, q75, q90] = feature.quantiles;
    const module = feature.module >= 0 ? el("a", { href: `#/module/${feature.module}`, text: feature.module }) : "none";
    const rows = [
      ["Density", "density", el("span", { tip: probe.oneIn(feature.density), text: probe.percent(feature.density) })],
      ["Firings", "firings", probe.number(feature.firings)],
      ["Maximum", "max", probe.number(feature.max, 4)], ["Mean", "mean", probe.number(feature.mean)],
      ["Row mean", "mean_activation", probe.number(feature.meanActivation)],
      ["Deviation", "std", probe.number(feature.std)], ["Skew", "skew", probe.number(feature.skew)],
      ["Kurtosis", "kurtosis", probe.number(feature.kurtosis)], ["Decoder norm", "decoder_norm", probe.number(feature.norm)],
      ["Module", "module", module],
    ];
    return el("section", { class: "panel" }, el("h2", { text: "Activation" }), histogram(feature),
      el("dl", { class: "stats" }, rows.map(([text, name, value]) => el("div", {}, el("dt", {}, probe.term(text, name)), el("dd", {}, value)))),
      feature.firings > 0 && el("table", { class: "quantiles" }, el("caption", { text: "Quantiles of the firings" }),
        el("thead", {}, el("tr", {}, ["10 %", "25 %", "50 %", "75 %", "90 %"].map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, el("tr", {}, [q10, q25, q50, q75, q90].map((value) => el("td", { text: probe.number(value) }))))));
  }

  function histogram(feature) {
    if (feature.firings === 0) return el("p", { class: "nothing", text: "This feature is dead: it fired on no analysed row." });
    const frame = el("div");
    const bins = feature.histogram.length;
    const edge = (i) => probe.number((i / bins) * feature.histogramTop);
    let log = probe.recall("probe_sae.histogram") !== "linear";
    const button = el("button", { class: "plain", type: "button" });
    const draw = () => {
      button.textContent = log ? "log" : "linear";
      button.setAttribute("aria-label", `Height of the bars: ${log ? "logarithmic" : "linear"}; change`);
      frame.replaceChildren(probe.bars({
        label: "Histogram of the firings by activation", counts: feature.histogram, low: 0, high: feature.histogramTop, log, height: 170,
        tip: (i) => `${probe.number(feature.histogram[i])} firings from ${edge(i)} to ${edge(i + 1)}`,
      }));
    };
    button.addEventListener("click", () => { log = !log; probe.remember("probe_sae.histogram", log ? "log" : "linear"); draw(); });
    draw();
    return el("div", { class: "histogram" }, button, frame);
  }

  const bar = (share) => el("span", { class: "meter", "aria-hidden": "true" }, el("i", { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } }));

  function tokenTable(feature, vocabulary) {
    if (feature.tokens.length === 0) return null;
    const kind = probe.report.manifest.kind === "image" ? "Commonest classes" : "Commonest tokens";
    return el("section", { class: "panel" }, el("h2", { text: kind }),
      el("table", { class: "numbers" }, el("thead", {}, el("tr", {}, el("th", { scope: "col", text: kind.split(" ")[1].replace(/(e?)s$/, "") }), el("th", { scope: "col", colspan: "2", text: "share" }), el("th", { scope: "col" }, probe.term("lift", "lift")))),
        el("tbody", {}, feature.tokens.map(([token, share, lift]) => el("tr", {},
          el("th", { scope: "row" }, probe.chip(probe.visible(probe.tokenText(vocabulary, token + 1)))),
          el("td", { class: "bar" }, bar(share)), el("td", { text: probe.percent(share) }), el("td", { text: `×${probe.number(lift)}` }))))));
  }

  function effects(feature, vocabulary) {
    if (feature.promoted.length + feature.suppressed.length === 0) return null;
    const column = (text, kind, pairs) => {
      const most = Math.max(...pairs.map(([, value]) => Math.abs(value)), 1e-9);
      return el("div", {}, el("h3", { text }), el("ul", { class: `effects ${kind}` }, pairs.map(([token, value]) => el("li", {
        style: { "--level": (Math.abs(value) / most).toFixed(3) },
      }, probe.chip(probe.visible(probe.tokenText(vocabulary, token + 1))), el("span", { text: `${value > 0 ? "+" : ""}${probe.number(value)}` })))));
    };
    return el("section", { class: "panel" }, el("h2", { text: "Direct effect on the next token" }),
      el("p", { class: "quiet", text: "Change of each logit for one unit of activation, straight from the decoder direction, less its mean over all tokens." }),
      el("div", { class: "two" }, column("Promoted", "promoted", feature.promoted), column("Suppressed", "suppressed", feature.suppressed)));
  }

  function related(title, caption, pairs, share, text) {
    if (pairs.length === 0) return null;
    return el("section", { class: "panel" }, el("h2", { text: title }), el("p", { class: "quiet" }, caption),
      el("ul", { class: "related" }, pairs.map((pair) => el("li", {},
        el("a", { href: `#/feature/${pair[0]}` }, el("span", { class: "id", text: `#${pair[0]}` }), probe.nameOf(pair[0], 3)), bar(share(pair)), el("span", { class: "figure", tip: text(pair), text: probe.number(share(pair), 2) })))));
  }

  // All features as dots, this one and its nearest marked.
  function miniMap(feature) {
    const place = probe.place(feature.id);
    if (!place) return null;
    const canvas = el("canvas", { role: "img", "aria-label": "Place on the map of features" });
    const draw = () => {
      const size = canvas.clientWidth;
      if (!size || !canvas.isConnected) return;
      const ratio = devicePixelRatio || 1;
      canvas.width = size * ratio;
      canvas.height = size * 0.7 * ratio;
      const pen = canvas.getContext("2d");
      const at = ([x, y]) => [(0.04 + x * 0.92) * canvas.width, (0.96 - y * 0.92) * canvas.height];
      pen.fillStyle = probe.colour("dot");
      const step = Math.ceil(probe.report.count / 20000);
      for (let id = 0; id < probe.report.count; id += step) {
        const found = probe.place(id);
        if (found) pen.fillRect(at(found)[0] - ratio / 2, at(found)[1] - ratio / 2, 1.4 * ratio, 1.4 * ratio);
      }
      const dot = (found, radius, colour) => {
        pen.beginPath();
        pen.arc(...at(found), radius * ratio, 0, 7);
        pen.fillStyle = colour;
        pen.fill();
      };
      for (const [id] of feature.nearest) if (probe.place(id)) dot(probe.place(id), 2.5, probe.colour("accent"));
      dot(place, 5.5, probe.colour("raised"));
      dot(place, 4, probe.colour("flame"));
    };
    new ResizeObserver(draw).observe(canvas);
    return el("section", { class: "panel" }, el("h2", { text: "On the map" }),
      el("a", { class: "minimap", href: `map.html#?sel=${feature.id}`, "aria-label": "Open the map at this feature" }, canvas),
      el("p", { class: "quiet", text: "Orange: this feature. Blue: nearest decoder directions." }));
  }

  probe.featurePage = async function (route) {
    const id = Number(route.path[1]);
    if (!Number.isInteger(id) || id < 0 || id >= probe.report.count) {
      return el("section", { class: "problem" }, el("h2", { text: "No such feature" }),
        el("p", { text: `This dictionary has features 0 to ${probe.report.count - 1}.` }), el("p", {}, el("a", { href: "#/features", text: "To the list" })));
    }
    const [feature, vocabulary] = await Promise.all([probe.feature(id), probe.vocabulary()]);
    const given = (name, allowed, usual) => (allowed.includes(route.query.get(name)) ? route.query.get(name) : usual);
    const state = {
      tab: given("tab", ["top", "groups", "random"], "top"), ws: route.query.get("ws") === "1" ? "1" : "",
      ctx: given("ctx", ["5", "16", "full"], probe.recall("probe_sae.context") || "16"),
      heat: route.query.get("heat") || "0.65",
    };
    const keep = (now) => {
      probe.remember("probe_sae.context", now.ctx);
      probe.keep(`feature/${id}`, probe.report.manifest.kind === "text"
        ? { tab: now.tab === "top" ? "" : now.tab, ctx: now.ctx, ws: now.ws } : { tab: now.tab === "top" ? "" : now.tab, heat: now.heat });
    };
    const keys = (event) => {
      if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      const { before, after } = neighbours(id);
      const target = { n: after, p: before }[event.key];
      if (target !== undefined) location.hash = `#/feature/${target}`;
    };
    addEventListener("keydown", keys);
    probe.leave = () => removeEventListener("keydown", keys);
    document.title = `#${id} ${probe.notes.get(id).label || probe.tokensOf(id).slice(0, 3).join(" · ")} · probe_sae`;
    return el("div", { class: "page feature" }, top(feature), noteForm(id),
      el("div", { class: "split" },
        el("div", { class: "left" }, probe.examples(feature, state, keep), effects(feature, vocabulary)),
        el("div", { class: "right" }, statistics(feature), tokenTable(feature, vocabulary),
          related("Fire together", ["Features that fire on the same rows, by ", probe.term("phi", "phi"), "."], feature.cofiring, (pair) => pair[1], (pair) => `${probe.number(pair[2])} rows on which both fire`),
          related("Nearest directions", "Cosine of the decoder directions.", feature.nearest, (pair) => pair[1], (pair) => `cosine ${probe.number(pair[1], 4)}`),
          miniMap(feature))));
  };
})(window.probe);
