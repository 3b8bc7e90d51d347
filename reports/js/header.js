"use strict";
// The bar at the top of every page, the help panel, and the keys that work everywhere.
(function (probe) {
  const { el } = probe;

  const PLACES = [
    ["overview", "Overview", "index.html#/"],
    ["features", "Features", "index.html#/features"],
    ["map", "Map", "map.html"],
    ["modules", "Modules", "index.html#/modules"],
    ["inputs", "Inputs", "index.html#/inputs"],
    ["compare", "Compare", "index.html#/compare"],
  ];
  const KEYS = [
    ["/", "search features"],
    ["j  k", "next, previous row of the list"],
    ["Enter", "open the row"],
    ["n  p", "next, previous feature"],
    ["r", "a feature at random"],
    ["g o", "overview"],
    ["g l", "list of features"],
    ["g m", "map"],
    ["g c", "modules"],
    ["g i", "inputs"],
    ["←  →", "along the tokens of an input"],
    ["+  -  0", "on the map: nearer, farther, all"],
    ["v", "on the map: list what is in view"],
    ["g d", "dictionaries compared"],
    ["t", "theme: system, light, dark"],
    ["?", "this panel"],
    ["Esc", "close"],
  ];

  probe.go = (target) => {
    location.href = probe.address(`index.html#/${target}`);
  };

  probe.random = function () {
    const alive = [];
    const { firings } = probe.report.index;
    for (let i = 0; i < firings.length; i++) if (firings[i]) alive.push(i);
    if (alive.length) probe.go(`feature/${alive[Math.floor(Math.random() * alive.length)]}`);
  };

  probe.header = function (current) {
    const { manifest } = probe.report;
    const search = el("input", {
      type: "search",
      id: "search",
      placeholder: "Search features",
      "aria-label": "Search features by number, label or token",
      autocomplete: "off",
      spellcheck: "false",
    });
    const form = el(
      "form",
      {
        role: "search",
        on: {
          submit: (event) => {
            event.preventDefault();
            found(search.value);
          },
        },
      },
      search,
      el("kbd", { text: "/", "aria-hidden": "true" }),
    );
    search.addEventListener("input", () =>
      dispatchEvent(new CustomEvent("searching", { detail: search.value })),
    );
    const theme = el("button", {
      class: "icon",
      on: {
        click: () => {
          probe.nextTheme();
          show();
        },
      },
    });
    const show = () => {
      theme.textContent = { auto: "◐", light: "○", dark: "●" }[probe.theme()];
      theme.setAttribute("aria-label", `Theme: ${probe.theme()}`);
      probe.tip(theme, `Theme: ${probe.theme()} (t)`);
    };
    addEventListener("themechange", show);
    show();
    document.getElementById("header").replaceChildren(
      el(
        "a",
        { class: "mark", href: "index.html#/" },
        el("img", { src: "assets/icon.svg", alt: "", width: "22", height: "22" }),
        el("span", { text: "probe_sae" }),
        el("bdi", { class: "site", text: manifest.site || "" }),
      ),
      el(
        "nav",
        { "aria-label": "Pages" },
        PLACES.filter(([name]) => name !== "compare" || manifest.compare).map(([name, text, href]) =>
          el("a", { href, "data-page": name, "aria-current": name === current ? "page" : null, text }),
        ),
      ),
      form,
      el(
        "div",
        { class: "tools" },
        theme,
        el("button", {
          class: "icon",
          text: "?",
          "aria-label": "Help",
          tip: "Help and keys (?)",
          on: { click: help },
        }),
      ),
    );
  };

  probe.current = function (page) {
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };

  // Enter in the search field: a number opens that feature, anything else lists what matches.
  function found(text) {
    const number = text.trim().replace(/^#/, "");
    if (/^\d+$/.test(number) && Number(number) < probe.report.count) probe.go(`feature/${Number(number)}`);
    else if (!document.querySelector("#table, .map-frame"))
      probe.go(`features?q=${encodeURIComponent(text.trim())}`);
    else document.getElementById("table")?.focus();
  }

  let panel = null;
  function help() {
    panel?.remove();
    const file = el("input", { type: "file", accept: ".json,application/json", hidden: true });
    file.addEventListener("change", () => file.files[0] && probe.notes.import(file.files[0]));
    panel = el(
      "dialog",
      { class: "help", "aria-label": "Help" },
      el("form", { method: "dialog" }, el("button", { class: "icon", "aria-label": "Close", text: "×" })),
      el("h2", { text: "How to read this report" }),
      el("p", {
        text: "A feature is one direction of the dictionary. It fires on a row – a token, or a patch of an image – when its activation there is above zero. Colour shows activation as a share of the feature's own maximum; the outlined place is the one that the example was chosen for.",
      }),
      el("p", {
        text: "“Top” holds the strongest firings and flatters every feature. “Random” is a fair sample of all firings: trust a label only when it fits those too.",
      }),
      el("p", {
        text: "Numbers are the analysis's own; activations of the tokens around an example are kept in 85 steps of the feature's maximum, hence the “≈” in their tooltips.",
      }),
      el("h3", { text: "Keys" }),
      el(
        "dl",
        { class: "keys" },
        KEYS.map(([keys, does]) => [
          el(
            "dt",
            {},
            keys.split(/ +/).map((key) => el("kbd", { text: key })),
          ),
          el("dd", { text: does }),
        ]),
      ),
      el("h3", { text: "Your labels and notes" }),
      el("p", {
        text: "They stay in this browser. Export them to a file to share, or to bake into a report with --labels.",
      }),
      el(
        "p",
        { class: "buttons" },
        el("button", { text: "Export", on: { click: () => probe.notes.export() } }),
        el("button", { text: "Import…", on: { click: () => file.click() } }),
        file,
      ),
    );
    document.body.append(panel);
    panel.showModal();
  }
  probe.help = help;

  let leader = 0;
  addEventListener("keydown", (event) => {
    const typing =
      event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "Escape" && typing) event.target.blur();
    if (
      typing ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      document.querySelector("dialog[open]") ||
      !probe.report
    )
      return;
    const led = Date.now() - leader < 1200;
    leader = 0;
    const places = { o: "", l: "features", c: "modules", i: "inputs", d: "compare" };
    if (led && event.key === "m") location.href = probe.address("map.html");
    else if (led && event.key in places) probe.go(places[event.key]);
    else if (event.key === "g") leader = Date.now();
    else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search")?.focus();
    } else if (event.key === "?") help();
    else if (event.key === "t") probe.nextTheme();
    else if (event.key === "r") probe.random();
  });
  addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.matches(".skip")) return;
    event.preventDefault();
    document.getElementById("main").focus();
  });
})(window.probe);
