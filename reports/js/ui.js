"use strict";
// Small parts of every page: elements, numbers as text, tooltips, theme, errors.
(function (probe) {
  // Make an element. Properties: class, text, tip, on: {event: function}, style: {}, others as attributes.
  probe.el = function (tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "text") element.textContent = value;
      else if (name === "class") element.className = value;
      else if (name === "tip") probe.tip(element, value);
      else if (name === "on") {
        for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
      } else if (name === "style") {
        for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
      } else if (name === "href" || name === "src") element.setAttribute(name, probe.address(value));
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(
      ...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false),
    );
    return element;
  };
  const el = probe.el;

  // A link one further, or one that leads nowhere at the end of a row of pages.
  probe.step = (href, sign, name, key) =>
    el("a", {
      class: "button icon",
      href,
      "aria-label": name,
      tip: `${name} (${key})`,
      "aria-disabled": href ? null : "true",
      text: sign,
    });

  // Text in which a reader sees control characters.
  probe.visible = (text) =>
    text.replace(/[\u0000-\u001f\u007f\u0085\u2028\u2029]/g, (char) => {
      if ("\n\u0085\u2028\u2029".includes(char)) return "↵";
      if (char === "\t") return "→";
      return char === "\u007f" ? "␡" : String.fromCharCode(0x2400 + char.charCodeAt(0));
    });

  // As Intl.NumberFormat("en") writes numbers, whose first use takes 12 ms.
  const grouped = (value) => {
    const [whole, part] = String(value).split(".");
    const thousands = whole.replace(/\B(?=(\d{3})+$)/g, ",");
    return part === undefined ? thousands : `${thousands}.${part}`;
  };
  const inDigits = (value, digits) => grouped(Number(value.toPrecision(digits)));

  probe.number = (value, digits = 3) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value < 0) return `−${probe.number(-value, digits)}`;
    if (Number.isInteger(value) && value < 1e21) return grouped(value);
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 1);
    return inDigits(value, Math.max(digits, Math.ceil(Math.log10(size + 1))));
  };

  probe.percent = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const shown = value * 100;
    if (shown === 0) return "0 %";
    if (Math.abs(shown) < 0.001) return `${shown.toExponential(1)} %`;
    return `${inDigits(shown, 3)} %`;
  };

  probe.oneIn = (share) =>
    share > 0 ? `one row in ${probe.number(Math.max(1, Math.round(1 / share)))}` : "never";

  // A chip for a token, or a label written by a person.
  // Spaces at its ends are shown, since " the" and "the" are two tokens.
  probe.chip = function (text) {
    const [, before, middle, after] = text.match(/^( *)(.*?)( *)$/s);
    const spaces = (run, sign) =>
      run &&
      el("i", { class: "ws", text: run.length > 4 ? `${sign}×${run.length}` : sign.repeat(run.length) });
    return el(
      "bdi",
      { class: "chip" },
      middle
        ? [spaces(before, "·"), middle, spaces(after, "·")]
        : text.length > 4
          ? `␣×${text.length}`
          : "␣".repeat(text.length) || "empty",
    );
  };

  // A feature's name: the person's label, or a clear one that was made; and its commonest tokens.
  probe.nameOf = function (feature, most = 3) {
    const own = probe.notes.get(feature).label;
    const made = probe.labelOf(feature);
    // A label says what the tokens say: where there is little room, it stands alone.
    const shown = own || made.isClear ? (most > 3 ? most - 1 : 0) : most;
    const chips = probe
      .tokensOf(feature)
      .slice(0, shown)
      .map((text) => probe.chip(text));
    const { index, marks } = probe.report;
    const nothing =
      chips.length || own || made.isClear
        ? ""
        : index.firings[feature] === 0
          ? "dead"
          : marks
            ? `no ${marks.many}`
            : "";
    return el(
      "span",
      { class: "name" },
      own
        ? el("bdi", { class: "own-label", text: own })
        : made.isClear && el("bdi", { class: "label", text: made.text }),
      chips,
      nothing && el("span", { class: "quiet", text: nothing }),
    );
  };

  // --- tooltips: one box; on hover and on focus; Esc closes
  const tips = new WeakMap();
  let box = null;
  probe.tip = function (element, content) {
    tips.set(element, content);
    element.setAttribute("data-tip", "");
  };
  function closeTip() {
    if (box) box.hidden = true;
  }
  function openTip(event) {
    const target = event.target instanceof Element && event.target.closest("[data-tip]");
    if (!target || !tips.has(target)) return closeTip();
    const content = tips.get(target);
    const lines = typeof content === "function" ? content() : content;
    if (!lines) return closeTip();
    if (!box) {
      box = el("div", { class: "tip", role: "tooltip", id: "tip" });
      document.body.append(box);
    }
    box.replaceChildren(...[lines].flat().map((line) => el("div", { text: line })));
    box.hidden = false;
    const around = target.getBoundingClientRect();
    const left = Math.min(Math.max(8, around.left), innerWidth - box.offsetWidth - 8);
    const below = around.bottom + 8;
    const top = below + box.offsetHeight > innerHeight ? around.top - box.offsetHeight - 8 : below;
    box.style.left = `${left}px`;
    box.style.top = `${Math.max(4, top)}px`;
    return undefined;
  }
  addEventListener("mouseover", openTip);
  addEventListener("focusin", openTip);
  addEventListener("scroll", closeTip, true);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeTip();
  });

  // A word with its definition behind a dotted underline.
  probe.term = (text, name) => {
    const { definitions } = probe.report.manifest;
    const meaning = definitions[name] || definitions[name.split(".")[0]];
    if (!meaning) return el("span", { text });
    return el("span", { class: "term", tabindex: "0", tip: meaning, "aria-description": meaning, text });
  };

  // --- theme: follows the system unless a person chose
  const THEMES = ["auto", "light", "dark"];
  probe.remember = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      /* no storage */
    }
  };
  probe.recall = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  probe.theme = () => document.documentElement.dataset.theme || "auto";
  probe.setTheme = function (theme) {
    if (THEMES.includes(theme) && theme !== "auto") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    probe.remember("probe_sae.theme", theme);
    dispatchEvent(new Event("themechange"));
  };
  probe.nextTheme = () => probe.setTheme(THEMES[(THEMES.indexOf(probe.theme()) + 1) % THEMES.length]);
  const asked = new URLSearchParams(location.search).get("theme");
  const known = asked || probe.recall("probe_sae.theme");
  if (THEMES.includes(known) && known !== "auto") document.documentElement.dataset.theme = known;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    dispatchEvent(new Event("themechange")),
  );

  // A colour of the style sheet as the browser computes it, for canvases; each once, as every
  // question makes the browser compute the styles of the whole page.
  const colours = new Map();
  addEventListener("themechange", () => colours.clear());
  probe.colour = function (name) {
    if (colours.has(name)) return colours.get(name);
    const sample = el("i", { style: { color: `var(--${name})`, display: "none" } });
    document.body.append(sample);
    const found = getComputedStyle(sample).color;
    sample.remove();
    colours.set(name, found);
    return found;
  };

  // --- errors and messages
  probe.problem = (error) =>
    el(
      "section",
      { class: "problem", role: "alert" },
      el("h2", { text: "This part of the report cannot be shown" }),
      el("p", { text: error instanceof probe.DataError ? error.message : `${error.name}: ${error.message}` }),
    );

  let shown = null;
  probe.say = function (text) {
    if (!shown) {
      shown = el("div", { class: "said", role: "status" });
      document.body.append(shown);
    }
    shown.textContent = text;
    shown.classList.add("on");
    clearTimeout(probe.sayTimer);
    probe.sayTimer = setTimeout(() => shown.classList.remove("on"), 2600);
  };

  // Hand a text to the person as a file.
  probe.download = function (name, type, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // Run `run` once things are quiet.
  probe.later = (run) => (window.requestIdleCallback || ((f) => setTimeout(f, 60)))(run);

  // --- routes: #/path?key=value
  probe.route = function () {
    const [path, query = ""] = decodeSafely(location.hash.slice(1)).split(/\?(.*)/s);
    return { path: path.split("/").filter(Boolean), query: new URLSearchParams(query) };
  };
  function decodeSafely(text) {
    const [path, query] = text.split(/\?(.*)/s);
    try {
      return query === undefined ? decodeURIComponent(path) : `${decodeURIComponent(path)}?${query}`;
    } catch {
      return text;
    }
  }
  // Put state into the address without a step in the history.
  probe.keep = function (path, query) {
    const text = new URLSearchParams(
      Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined),
    ).toString();
    history.replaceState(null, "", `#/${path}${text ? `?${text}` : ""}`);
  };
})(window.probe);
