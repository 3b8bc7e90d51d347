"use strict";
// Choosing features on the map: by a lasso or a box drawn on the plain one; all in view, on any.
(function (probe) {
  const { el, svg } = probe;
  const { canvas, frame, view, where, zoom, moved, reset, tools } = probe.plainMap;
  let tool = "move";

  // The outline while it is drawn, and its corners as [x, y] on the canvas.
  const outline = svg("path", { class: "lasso" });
  const cover = svg("svg", { class: "map-lasso", "aria-hidden": "true" }, outline);
  let path = null;
  let hasDrawn = false;

  const corners = () => {
    if (tool === "lasso" || path.length < 2) return path;
    const [[left, top], [right, bottom]] = [path[0], path[path.length - 1]];
    return [
      [left, top],
      [right, top],
      [right, bottom],
      [left, bottom],
    ];
  };
  const show = () => {
    outline.setAttribute("d", path ? `M${corners().join("L")}Z` : "");
  };

  // Whether a point is inside: a ray to the right crosses an odd number of sides.
  function isInside([x, y], around) {
    let inside = false;
    for (let i = 0, j = around.length - 1; i < around.length; j = i, i++) {
      const [[x1, y1], [x2, y2]] = [around[i], around[j]];
      if (y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1)) inside = !inside;
    }
    return inside;
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (value, most) => Math.max(0, Math.min(most, value));
    return [
      inside(event.clientX - box.left, box.width),
      inside(event.clientY - box.top, box.height),
    ];
  };
  function press(event) {
    hasDrawn = false;
    if (tool === "move" || event.target !== canvas || event.button > 0) return;
    event.stopPropagation();
    canvas.setPointerCapture(event.pointerId);
    path = [at(event)];
  }
  function draw(event) {
    if (!path) return;
    event.stopPropagation();
    const [x, y] = at(event);
    const [lastX, lastY] = path[path.length - 1];
    if ((x - lastX) ** 2 + (y - lastY) ** 2 >= 9) path.push([x, y]);
    show();
  }
  function release(points, choose) {
    if (!path) return;
    const around = corners();
    hasDrawn = path.length > 1;
    path = null;
    show();
    if (!hasDrawn) return;
    choose(
      points.filter((id) => isInside(where(probe.place(id)), around)),
      `in the ${tool}`,
    );
  }

  function inView(points, plot) {
    if (!plot) {
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      return points.filter((id) => {
        const [x, y] = where(probe.place(id));
        return x >= 0 && x <= width && y >= 0 && y <= height;
      });
    }
    const ranges = [plot.layout.xaxis.range, plot.layout.yaxis.range];
    return points.filter((id) =>
      probe.place(id).every((value, i) => value >= Math.min(...ranges[i]) && value <= Math.max(...ranges[i])),
    );
  }

  // Bring nearer by a factor, then move by shares of the view; the same on either kind of map.
  function look(plot, factor, right = 0, down = 0) {
    if (!plot) {
      view.x += right / view.scale;
      view.y += down / view.scale;
      return factor === 1 ? moved() : zoom(factor);
    }
    const changed = ([low, high], step) => {
      const [middle, half] = [(low + high) / 2 + step * (high - low), (high - low) / 2 / factor];
      return [middle - half, middle + half];
    };
    return window.Plotly.relayout(plot, {
      "xaxis.range": changed(plot.layout.xaxis.range, right),
      "yaxis.range": changed(plot.layout.yaxis.range, -down),
    });
  }
  const whole = (plot) =>
    plot
      ? window.Plotly.relayout(plot, { "xaxis.range": [-0.03, 1.03], "yaxis.range": [-0.03, 1.03] })
      : reset();

  const choices = [
    ["move", "✥", "Move the map by dragging"],
    ["lasso", "◌", "Draw a lasso around features to list them"],
    ["box", "▭", "Draw a box around features to list them"],
  ].map(([name, text, tip]) =>
    el("button", {
      class: "icon",
      text,
      tip,
      "aria-label": tip,
      "data-tool": name,
      "aria-pressed": String(name === tool),
      on: { click: () => take(name) },
    }),
  );
  function take(name) {
    tool = name;
    canvas.classList.toggle("drawing", name !== "move");
    for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  }

  // Let a person choose among the features `points`; `choose(ids, how)` gets them, `plot()` is
  // plotly's map or null. Returns a function that ends it.
  probe.mapChoosing = function (points, choose, plot) {
    const list = () => choose(inView(points, plot()), "in view");
    const keys = (event) => {
      if (event.target.closest("input, textarea, select, dialog")) return;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (event.key === "v") list();
      else if (event.key === "+" || event.key === "=") look(plot(), 1.4);
      else if (event.key === "-") look(plot(), 1 / 1.4);
      else if (event.key === "0") whole(plot());
      else if (event.key === "Escape") choose([], "");
      else if (event.key in step && event.target === frame) {
        event.preventDefault();
        look(plot(), 1, ...step[event.key]);
      }
    };
    const end = () => release(points, choose);
    const undrawn = (event) => {
      if (hasDrawn) event.stopPropagation();
      hasDrawn = false;
    };
    const held = [
      [frame, "pointerdown", press, true],
      [frame, "pointermove", draw, true],
      [frame, "pointerup", end, true],
      [frame, "pointercancel", end, true],
      [frame, "click", undrawn, true],
      [window, "keydown", keys, false],
    ];
    for (const [where, ...listening] of held) where.addEventListener(...listening);
    frame.append(cover);
    frame.tabIndex = 0;
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", "Map: arrows move it, + and − zoom, 0 shows all, v lists what is in view");
    const seen = el("button", {
      text: "In view",
      tip: "List what is in view (v)",
      on: { click: list },
    });
    tools.replaceChildren(...[...tools.children].filter((b) => b.matches(".zoom")), ...choices, seen);
    return () => {
      for (const [where, ...listening] of held) where.removeEventListener(...listening);
    };
  };
})(window.probe);
