"use strict";
// The panels beside a feature's examples: statistics, tokens, effects, relatives, place on the map.
(function (probe) {
  const { el } = probe;

  function statistics(feature) {
    const [q10, q25, q50, q75, q90] = feature.quantiles;
    const module =
      feature.module >= 0 ? el("a", { href: `#/module/${feature.module}`, text: feature.module }) : "none";
    const rows = [
      [
        "Density",
        "density",
        el("span", { tip: probe.oneIn(feature.density), text: probe.percent(feature.density) }),
      ],
      ["Firings", "firings", probe.number(feature.firings)],
      ["Maximum", "max", probe.number(feature.max, 4)],
      ["Mean", "mean", probe.number(feature.mean)],
      ["Row mean", "mean_activation", probe.number(feature.meanActivation)],
      ["Deviation", "std", probe.number(feature.std)],
      ["Skew", "skew", probe.number(feature.skew)],
      ["Kurtosis", "kurtosis", probe.number(feature.kurtosis)],
      ["Decoder norm", "decoder_norm", probe.number(feature.norm)],
      ["Module", "module", module],
    ];
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "Activation" }),
      histogram(feature),
      el(
        "dl",
        { class: "stats" },
        rows.map(([text, name, value]) =>
          el("div", {}, el("dt", {}, probe.term(text, name)), el("dd", {}, value)),
        ),
      ),
      feature.firings > 0 &&
        el(
          "table",
          { class: "quantiles" },
          el("caption", { text: "Quantiles of the firings" }),
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              ["10 %", "25 %", "50 %", "75 %", "90 %"].map((text) => el("th", { scope: "col", text })),
            ),
          ),
          el(
            "tbody",
            {},
            el(
              "tr",
              {},
              [q10, q25, q50, q75, q90].map((value) => el("td", { text: probe.number(value) })),
            ),
          ),
        ),
    );
  }

  function histogram(feature) {
    if (feature.firings === 0)
      return el("p", { class: "nothing", text: "This feature is dead: it fired on no analysed row." });
    const frame = el("div");
    const bins = feature.histogram.length;
    const edge = (i) => probe.number((i / bins) * feature.histogramTop);
    let log = probe.recall("probe_sae.histogram") !== "linear";
    const button = el("button", { class: "plain", type: "button" });
    const draw = () => {
      button.textContent = log ? "log" : "linear";
      button.setAttribute("aria-label", `${log ? "log" : "linear"}: height of the bars; change`);
      frame.replaceChildren(
        probe.bars({
          label: "Histogram of the firings by activation",
          counts: feature.histogram,
          low: 0,
          high: feature.histogramTop,
          log,
          height: 170,
          tip: (i) => `${probe.number(feature.histogram[i])} firings from ${edge(i)} to ${edge(i + 1)}`,
        }),
      );
    };
    button.addEventListener("click", () => {
      log = !log;
      probe.remember("probe_sae.histogram", log ? "log" : "linear");
      draw();
    });
    draw();
    return el("div", { class: "histogram" }, button, frame);
  }

  const bar = (share) =>
    el(
      "span",
      { class: "meter", "aria-hidden": "true" },
      el("i", { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } }),
    );

  function tokenTable(feature, vocabulary) {
    if (feature.tokens.length === 0) return null;
    const kind = probe.report.manifest.kind === "image" ? "Commonest classes" : "Commonest tokens";
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: kind }),
      el(
        "table",
        { class: "numbers" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col", text: kind.split(" ")[1].replace(/(e?)s$/, "") }),
            el("th", { scope: "col", colspan: "2", text: "share" }),
            el("th", { scope: "col" }, probe.term("lift", "lift")),
          ),
        ),
        el(
          "tbody",
          {},
          feature.tokens.map(([token, share, lift]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, probe.chip(probe.visible(probe.tokenText(vocabulary, token + 1)))),
              el("td", { class: "bar" }, bar(share)),
              el("td", { text: probe.percent(share) }),
              el("td", { text: `×${probe.number(lift)}` }),
            ),
          ),
        ),
      ),
    );
  }

  function effects(feature, vocabulary) {
    if (feature.promoted.length + feature.suppressed.length === 0) return null;
    const column = (text, kind, pairs) => {
      const most = Math.max(...pairs.map(([, value]) => Math.abs(value)), 1e-9);
      return el(
        "div",
        {},
        el("h3", { text }),
        el(
          "ul",
          { class: `effects ${kind}` },
          pairs.map(([token, value]) =>
            el(
              "li",
              {
                style: { "--level": (Math.abs(value) / most).toFixed(3) },
              },
              probe.chip(probe.visible(probe.tokenText(vocabulary, token + 1))),
              el("span", { text: `${value > 0 ? "+" : ""}${probe.number(value)}` }),
            ),
          ),
        ),
      );
    };
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "Direct effect on the next token" }),
      el("p", {
        class: "quiet",
        text: "Change of each logit for one unit of activation, straight from the decoder direction, less its mean over all tokens.",
      }),
      el(
        "div",
        { class: "two" },
        column("Promoted", "promoted", feature.promoted),
        column("Suppressed", "suppressed", feature.suppressed),
      ),
      feature.logits && allLogits(feature.logits),
    );
  }

  function allLogits({ counts, low, high, std, skew, kurtosis }) {
    const edge = (i) => probe.number(low + (i / counts.length) * (high - low));
    return el(
      "div",
      { class: "logits" },
      el("h3", { text: "All logits" }),
      probe.bars({
        label: "Effects on all logits",
        caption: "tokens by change of logit",
        counts,
        low,
        high,
        log: true,
        height: 166,
        tip: (i) => `about ${probe.number(counts[i], 2)} tokens from ${edge(i)} to ${edge(i + 1)}`,
      }),
      el(
        "p",
        { class: "quiet" },
        [
          ["Deviation", "logit_std", std],
          ["skew", "logit_skew", skew],
          ["kurtosis", "logit_kurtosis", kurtosis],
        ].map(([text, name, value], i) => [
          i > 0 && " · ",
          probe.term(text, name),
          ` ${probe.number(value)}`,
        ]),
      ),
    );
  }

  function related(title, caption, pairs, share, text) {
    if (pairs.length === 0) return null;
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: title }),
      el("p", { class: "quiet" }, caption),
      el(
        "ul",
        { class: "related" },
        pairs.map((pair) =>
          el(
            "li",
            {},
            el(
              "a",
              { href: `#/feature/${pair[0]}` },
              el("span", { class: "id", text: `#${pair[0]}` }),
              probe.nameOf(pair[0], 3),
            ),
            bar(share(pair)),
            el("span", { class: "figure", tip: text(pair), text: probe.number(share(pair), 2) }),
          ),
        ),
      ),
    );
  }

  // All features as dots: drawn once for a size and a theme, since pages follow each other quickly.
  let dots = null;
  function allDots(width, height, ratio) {
    const colour = probe.colour("dot");
    if (dots && dots.width === width && dots.height === height && dots.dataset.colour === colour) return dots;
    dots = el("canvas", { width, height, "data-colour": colour });
    const pen = dots.getContext("2d");
    pen.fillStyle = colour;
    const step = Math.ceil(probe.report.count / 20000);
    const side = (probe.report.count < 3000 ? 2.2 : 1.4) * ratio;
    for (let id = 0; id < probe.report.count; id += step) {
      const found = probe.place(id);
      if (!found) continue;
      const [x, y] = onMiniMap(found, dots);
      pen.fillRect(x - side / 2, y - side / 2, side, side);
    }
    return dots;
  }
  const onMiniMap = ([x, y], { width, height }) => [(0.04 + x * 0.92) * width, (0.96 - y * 0.92) * height];

  // Where a feature is among all: itself and its nearest marked.
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
      pen.drawImage(allDots(canvas.width, canvas.height, ratio), 0, 0);
      const at = (found) => onMiniMap(found, canvas);
      const dot = (found, radius, colour) => {
        pen.beginPath();
        pen.arc(...at(found), radius * ratio, 0, 7);
        pen.fillStyle = colour;
        pen.fill();
      };
      for (const [id] of feature.nearest)
        if (probe.place(id)) dot(probe.place(id), 2.5, probe.colour("accent"));
      dot(place, 5.5, probe.colour("raised"));
      dot(place, 4, probe.colour("flame"));
    };
    new ResizeObserver(draw).observe(canvas);
    const themed = () => (canvas.isConnected ? draw() : removeEventListener("themechange", themed));
    addEventListener("themechange", themed);
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "On the map" }),
      el(
        "a",
        {
          class: "minimap",
          href: `map.html#?sel=${feature.id}`,
          "aria-label": "Open the map at this feature",
        },
        canvas,
      ),
      el("p", { class: "quiet", text: "Orange: this feature. Blue: nearest decoder directions." }),
    );
  }

  probe.panels = { statistics, tokenTable, effects, related, miniMap };
})(window.probe);
