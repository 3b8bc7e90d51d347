"use strict";
// What narrows the list of features down: density, module, site, labels.
(function (probe) {
  const { el } = probe;

  function range(name, text, state, bounds, change) {
    const value = state[name] === "" ? (name === "from" ? bounds[0] : 0) : Number(state[name]);
    const output = el("output", { text: probe.percent(10 ** value) });
    const input = el("input", {
      type: "range",
      min: bounds[0],
      max: 0,
      step: "0.25",
      value,
      "aria-label": text,
    });
    input.addEventListener("input", () => {
      const chosen = Number(input.value);
      output.textContent = probe.percent(10 ** chosen);
      change({ [name]: chosen === (name === "from" ? bounds[0] : 0) ? "" : input.value });
    });
    return el("label", { class: "range" }, el("span", { text }), input, output);
  }

  const check = (name, text, state, change) => {
    const input = el("input", { type: "checkbox" });
    input.checked = state[name] === "1";
    input.addEventListener("change", () => change({ [name]: input.checked ? "1" : "" }));
    return el("label", { class: "check" }, input, text);
  };

  function moduleChoice(state, change) {
    const { modules } = probe.report.manifest;
    if (modules.length === 0) return null;
    const select = el(
      "select",
      { "aria-label": "Module" },
      el("option", { value: "", text: "all modules" }),
      modules
        .slice(0, 200)
        .map(({ module, size }) => el("option", { value: module, text: `module ${module} (${size})` })),
    );
    select.value = state.module;
    select.addEventListener("change", () => change({ module: select.value }));
    return select;
  }

  function partChoice(state, change) {
    const { parts } = probe.report.manifest;
    if (parts.length < 2) return null;
    const select = el(
      "select",
      { "aria-label": "Site" },
      el("option", { value: "", text: "all sites" }),
      parts.map(({ site }, i) => el("option", { value: i, text: site })),
    );
    select.value = state.part;
    select.addEventListener("change", () => change({ part: select.value }));
    return select;
  }

  probe.filters = (state, low, change) => [
    range("from", "Density from", state, [low], change),
    range("to", "to", state, [low], change),
    moduleChoice(state, change),
    partChoice(state, change),
    check("clear", "clear label", state, change),
    check("starred", "starred", state, change),
    check("dead", "show dead", state, change),
  ];
})(window.probe);
