"use strict";
// One input whose places (tokens, patches) are coloured and chosen: a row of options for keys and screen readers.
(function (probe) {
  const { el } = probe;

  function textCells(source) {
    const { context, vocabulary } = source;
    return probe.groups(context, vocabulary, 0, context.tokens.length).map((group) => {
      const element = el("span", { class: `token${group.special ? " special" : ""}` });
      const isBreak = /^\s*\n\s*$/.test(group.text);
      if (isBreak) element.append(el("i", { class: "ws", text: "↵" }));
      probe.fillToken(element, group.text, { breaks: true, glyphs: false });
      const name = group.members
        .map((at) => probe.visible(probe.tokenText(vocabulary, context.tokens[at])))
        .join(" ");
      return { element, places: group.members, name: `“${name}”`, isSpecial: group.special };
    });
  }

  function patchCells() {
    const [rows, columns] = probe.report.manifest.layout.grid;
    if (rows * columns === 1) return [];
    return Array.from({ length: rows * columns }, (_, place) => ({
      element: el("span", { class: "token patch-cell" }),
      places: [place],
      name: `patch in row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1}`,
      isSpecial: false,
    }));
  }

  // Make it. `on.point(cell or null)` while the mouse is over a place, `on.choose(cell)` when one is chosen.
  // Returns { element, cells, paint(feature or null), mark(place or null), cellAt(place) }.
  probe.inputView = function (input, source, on = {}) {
    const isText = Boolean(source.context);
    const cells = isText ? textCells(source) : patchCells();
    const ofElement = new Map(cells.map((cell) => [cell.element, cell]));
    const ofPlace = new Map(cells.flatMap((cell) => cell.places.map((place) => [place, cell])));
    const [, columns] = isText ? [] : probe.report.manifest.layout.grid;
    const options = {
      role: "listbox",
      "aria-label": isText ? "Tokens" : "Patches",
      "aria-orientation": "horizontal",
    };
    const counts = probe.levelsOf(input, null);
    const most = Math.max(1, ...counts.values());
    let painted = null;

    for (const cell of cells) {
      const firing = probe.firingAt(input, cell.places).length;
      const isRecorded = cell.places.some((place) => input.rowAt.has(place));
      const said = isRecorded ? probe.countOf(firing, "feature", "features") : "not recorded";
      cell.element.setAttribute("role", "option");
      cell.element.setAttribute("aria-label", `${cell.name}, ${said}`);
      cell.element.tabIndex = -1;
      probe.tip(cell.element, () => {
        const lines = [`${cell.name}  ${said}`];
        if (painted !== null) {
          const found = probe.firingAt(input, cell.places).find(([feature]) => feature === painted);
          lines.push(
            found
              ? `#${painted}: ≈ ${probe.number(found[1] * input.scale(painted))} (${probe.percent(found[1])} of maximum)`
              : `#${painted} does not fire`,
          );
        }
        return lines;
      });
    }
    if (cells.length) cells[0].element.tabIndex = 0;

    function paint(feature) {
      painted = feature;
      const levels = feature === null ? counts : probe.levelsOf(input, feature);
      for (const { element, places } of cells) {
        const found = places.map((place) => levels.get(place) || 0);
        const level =
          found.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0) / (feature === null ? most : 1);
        element.classList.toggle("counted", feature === null && level > 0);
        element.classList.toggle("fires", feature !== null && level > 0);
        element.classList.toggle("cold", feature !== null && level < 0);
        element.style.setProperty("--level", Math.abs(level).toFixed(3));
      }
    }

    let marked = null;
    function mark(place) {
      const cell = ofPlace.get(place) || null;
      if (marked) {
        marked.element.classList.remove("chosen");
        marked.element.removeAttribute("aria-selected");
      }
      marked = cell;
      if (!cell) return;
      cell.element.classList.add("chosen");
      cell.element.setAttribute("aria-selected", "true");
      for (const other of cells) other.element.tabIndex = other === cell ? 0 : -1;
    }

    const box = isText
      ? el(
          "div",
          { class: "text input-text", dir: "auto", lang: "", ...options },
          cells.map((cell) => cell.element),
        )
      : el(
          "div",
          {
            class: "picture large",
            style: { "aspect-ratio": `${source.picture.width} / ${source.picture.height}` },
          },
          probe.drawPicture(source.picture, `${source.title}, ${source.kind}`),
          cells.length > 0 &&
            el(
              "div",
              { class: "patches", style: { "grid-template-columns": `repeat(${columns}, 1fr)` }, ...options },
              cells.map((cell) => cell.element),
            ),
        );
    const cellOf = (event) =>
      ofElement.get(event.target instanceof Element && event.target.closest(".token"));
    box.addEventListener("pointerover", (event) => cellOf(event) && on.point?.(cellOf(event)));
    box.addEventListener("pointerleave", () => on.point?.(null));
    box.addEventListener("focusin", (event) => cellOf(event) && on.choose?.(cellOf(event)));
    box.addEventListener("click", (event) => cellOf(event)?.element.focus());
    box.addEventListener("keydown", (event) => {
      const cell = cellOf(event);
      if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const ends = { Home: 0, End: cells.length - 1 };
      const target = event.key in ends ? ends[event.key] : step ? cells.indexOf(cell) + step : -1;
      if (!cells[target]) return;
      event.preventDefault();
      cells[target].element.focus();
    });
    paint(null);
    return { element: box, cells, paint, mark, cellAt: (place) => ofPlace.get(place) || null };
  };
})(window.probe);
