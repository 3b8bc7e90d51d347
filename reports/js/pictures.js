"use strict";
// Examples as images: the thumbnail, the feature's activation on each patch, the strongest patch.
(function (probe) {
  const { el } = probe;

  function drawPixels(picture) {
    const canvas = el("canvas", { width: picture.width, height: picture.height, "aria-hidden": "true" });
    const pixels = new Uint8ClampedArray(picture.width * picture.height * 4);
    for (let i = 0; i < picture.width * picture.height; i++) {
      for (let c = 0; c < 3; c++)
        pixels[i * 4 + c] = picture.pixels[i * picture.channels + (picture.channels === 3 ? c : 0)];
      pixels[i * 4 + 3] = 255;
    }
    canvas.getContext("2d").putImageData(new ImageData(pixels, picture.width, picture.height), 0, 0);
    return canvas;
  }

  // A picture alone: its file, or its pixels.
  probe.drawPicture = function (picture, text) {
    if (!picture.file) return drawPixels(picture);
    const image = el("img", {
      src: picture.file,
      alt: text,
      width: picture.width,
      height: picture.height,
      loading: "lazy",
      decoding: "async",
    });
    image.addEventListener("error", () =>
      image.replaceWith(el("span", { class: "lost", text: `missing: ${picture.file}` })),
    );
    return image;
  };

  // A picture in a frame that can be brought nearer around one patch; more may lie over it.
  function framed(image, position, ...over) {
    const [rows, columns] = probe.report.manifest.layout.grid;
    const [y, x] = [Math.floor(position / columns), position % columns];
    return el(
      "div",
      {
        class: "zoomed",
        style: { "--x": ((x + 0.5) / columns).toFixed(4), "--y": ((y + 0.5) / rows).toFixed(4) },
      },
      image,
      ...over,
    );
  }

  // A patch of a fine grid is too small to be seen in the whole image.
  probe.usualZoom = () => (Math.max(...(probe.report.manifest.layout.grid || [1])) > 12 ? "3" : "1");

  // What shows the strongest images of a feature in a line of a list.
  probe.thumbs = async function () {
    const { columns, shapes } = await probe.load("strongest");
    const width = shapes.context[1];
    const zoom = probe.usualZoom();
    return function (feature) {
      const line = el("span", { class: zoom === "1" ? "thumbs" : "thumbs zoom", "aria-hidden": "true" });
      line.style.setProperty("--zoom", zoom);
      for (let at = feature * width; at < (feature + 1) * width && columns.context[at]; at++) {
        const frame = el("span", { class: "picture" });
        line.append(frame);
        probe
          .picture(columns.context[at] - 1)
          .then((picture) =>
            frame.append(framed(probe.drawPicture(picture, ""), columns.position[at])),
          )
          .catch(() => frame.classList.add("lost"));
      }
      return line;
    };
  };

  function drawHeat(example, rows, columns) {
    const canvas = el("canvas", { class: "heat", width: columns, height: rows, "aria-hidden": "true" });
    const pixels = new Uint8ClampedArray(rows * columns * 4);
    for (const [place, level] of example.fired) {
      if (place < rows * columns) pixels.set([255, 140, 0, Math.round(level * 255)], place * 4);
    }
    canvas.getContext("2d").putImageData(new ImageData(pixels, columns, rows), 0, 0);
    return canvas;
  }

  // A picture with its heat map; on a grid of one patch there is no heat to show.
  probe.picturePlate = function (example, picture, feature, vocabulary, list = null) {
    const [rows, columns] = probe.report.manifest.layout.grid;
    const named = picture.label ? probe.visible(probe.tokenText(vocabulary, picture.label)) : "";
    const kind = /^\d+$/.test(named) ? `class ${named}` : named;
    const text = `${kind || "image"}, activation ${probe.number(example.value)}`;
    const image = probe.drawPicture(picture, text);
    const [y, x] = [Math.floor(example.position / columns), example.position % columns];
    const mark =
      rows * columns > 1 &&
      el("span", {
        class: "patch",
        style: {
          left: `${(x / columns) * 100}%`,
          top: `${(y / rows) * 100}%`,
          width: `${100 / columns}%`,
          height: `${100 / rows}%`,
        },
      });
    return el(
      "figure",
      { class: "plate" },
      el(
        "div",
        {
          class: "picture",
          role: "img",
          "aria-label": text,
          style: { "aspect-ratio": `${picture.width} / ${picture.height}` },
          tip: [
            `${probe.visible(picture.name)}`,
            kind,
            `activation ${probe.number(example.value, 4)} (${probe.percent(example.value / feature.max)} of maximum)`,
            rows * columns > 1
              ? `outlined: row ${y + 1}, column ${x + 1}; fires on ${example.fired.size} of ${rows * columns} patches`
              : "",
          ].filter(Boolean),
        },
        framed(
          image,
          example.position,
          rows * columns > 1 && drawHeat(example, rows, columns),
          mark,
        ),
      ),
      el(
        "figcaption",
        {},
        el("b", { text: probe.number(example.value) }),
        " ",
        probe.inputLink(list, example, feature, kind),
        list && probe.lossChange(example.loss),
      ),
    );
  };
})(window.probe);
