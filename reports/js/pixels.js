"use strict";
// Dictionaries of pixels: images beside their reconstructions, codes as a heat map, features as images.
(function (probe) {
  const { el } = probe;
  const GALLERY = 256; // features drawn on the first page

  const load = () => (probe.report.manifest.layout.pixels ? probe.load("pixels") : Promise.resolve(null));

  function canvas(width, height, label, colour) {
    const drawn = el("canvas", { width, height, role: "img", "aria-label": label });
    const pixels = new Uint8ClampedArray(width * height * 4);
    for (let i = 0; i < width * height; i++) pixels.set(colour(i), i * 4);
    drawn.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    return drawn;
  }

  function photo(bytes, at, [height, width, channels], label) {
    const first = at * height * width * channels;
    return canvas(width, height, label, (i) => {
      const place = first + i * channels;
      const grey = channels < 3;
      return [bytes[place], bytes[place + (grey ? 0 : 1)], bytes[place + (grey ? 0 : 2)], 255];
    });
  }

  // Orange adds light, blue takes it away; full colour is the strongest pixel of the feature.
  function direction(found, id) {
    const [, height, width, channels] = found.shapes.directions;
    const size = height * width * channels;
    const values = found.columns.directions.subarray(id * size, (id + 1) * size);
    const most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0) || 1;
    return canvas(width, height, `what feature ${id} adds to an image`, (i) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += values[i * channels + c];
      const level = sum / channels / most;
      const alpha = Math.round(Math.abs(level) * 255);
      return level > 0 ? [232, 116, 0, alpha] : [50, 105, 205, alpha];
    });
  }

  function reconstructions(found) {
    const [count, ...shape] = found.shapes.originals;
    const { originals, reconstructions: made } = found.columns;
    return el(
      "section",
      { class: "panel" },
      el("h3", { text: "Image and reconstruction" }),
      el("p", { class: "quiet", text: "Above the image, below it what the features make of it." }),
      el(
        "div",
        { class: "pairs" },
        Array.from({ length: count }, (_, i) =>
          el(
            "div",
            { class: "pair" },
            photo(originals, i, shape, `image ${i + 1}`),
            photo(made, i, shape, `reconstruction of image ${i + 1}`),
          ),
        ),
      ),
    );
  }

  function heatMap(found) {
    const [count, features] = found.shapes.codes;
    const { codes, labels } = found.columns;
    const most = codes.reduce((m, v) => Math.max(m, Math.abs(v)), 0) || 1;
    const drawn = canvas(features, count, `activations of ${features} features on ${count} images`, (i) => {
      const level = Math.abs(codes[i]) / most;
      return [232, 116, 0, Math.round(level * 255)];
    });
    drawn.classList.add("codes");
    const place = (event) => {
      const box = drawn.getBoundingClientRect();
      const feature = Math.min(features - 1, Math.floor(((event.clientX - box.left) / box.width) * features));
      const row = Math.min(count - 1, Math.floor(((event.clientY - box.top) / box.height) * count));
      return [Math.max(0, feature), Math.max(0, row)];
    };
    const said = el("p", { class: "quiet", text: "Point at a cell to read it; click to open the feature." });
    drawn.addEventListener("pointermove", (event) => {
      const [feature, row] = place(event);
      const kind = labels[row] >= 0 ? `, class ${labels[row]}` : "";
      said.textContent = `Feature ${feature} on image ${row + 1}${kind}: ${probe.number(codes[row * features + feature])}`;
    });
    drawn.addEventListener("click", (event) => (location.hash = `#/feature/${place(event)[0]}`));
    return el(
      "section",
      { class: "panel" },
      el("h3", { text: "Codes of these images" }),
      el("p", { class: "quiet", text: "One line an image, one column a feature." }),
      el("div", { class: "codes-frame", style: { height: `${Math.max(120, count * 10)}px` } }, drawn),
      said,
    );
  }

  function activations(found) {
    const { counts, top } = { counts: found.columns.histogram, top: found.columns.histogram_top[0] };
    const means = probe.report.manifest.metrics.mean_activation;
    return [
      el(
        "section",
        { class: "panel" },
        el("h3", { text: "All activations" }),
        el("p", { class: "quiet", text: "How often each strength occurs, over features and images; logarithmic." }),
        probe.bars({ label: "histogram of activations", counts, low: 0, high: top, log: true, caption: "activation" }),
      ),
      Array.isArray(means) &&
        el(
          "section",
          { class: "panel" },
          el("h3", { text: "Mean activation of each feature" }),
          probe.bars({
            label: "mean activation of each feature",
            counts: means,
            low: 0,
            high: means.length,
            isCount: false,
            tip: (i) => `feature ${i}: ${probe.number(means[i], 4)}`,
            caption: "feature",
          }),
        ),
    ];
  }

  function gallery(found) {
    const count = found.shapes.directions[0];
    const shown = Math.min(count, GALLERY);
    return el(
      "section",
      { class: "panel wide" },
      el("h3", { text: "Features as images" }),
      el("p", {
        class: "quiet",
        text:
          "What an activation of 1 adds to an image (orange) or takes from it (blue)." +
          (shown < count ? ` The first ${shown} of ${probe.number(count)}.` : ""),
      }),
      el(
        "div",
        { class: "gallery" },
        Array.from({ length: shown }, (_, id) =>
          el("a", { href: `#/feature/${id}`, tip: `feature ${id}` }, direction(found, id), el("span", { text: id })),
        ),
      ),
    );
  }

  // The section of the first page; nothing where rows are no images.
  probe.pixelSection = async function () {
    const found = await load();
    if (!found) return null;
    return el(
      "section",
      {},
      el("h2", { text: "From image to image" }),
      el(
        "div",
        { class: "columns" },
        el("div", { class: "stack" }, reconstructions(found), heatMap(found)),
        el("div", { class: "stack" }, activations(found)),
      ),
      gallery(found),
    );
  };

  // The panel of a feature's page.
  probe.pixelPanel = async function (id) {
    const found = await load();
    if (!found) return null;
    return el(
      "section",
      { class: "panel" },
      el("h2", { text: "As an image" }),
      el("div", { class: "alone" }, direction(found, id)),
      el("p", { class: "quiet", text: "What an activation of 1 adds to an image (orange) or takes from it (blue)." }),
    );
  };
})(window.probe);
