"use strict";
// A feature's examples: strongest, a random sample in four groups, the sample as drawn.
(function (probe) {
  const { el } = probe;
  const TABS = [
    ["top", "Top", "The strongest firings, at most one a context. They flatter: look at the other tabs too."],
    [
      "groups",
      "By strength",
      "A random sample of all firings, from strongest to weakest in four equal groups.",
    ],
    ["random", "Random", "A random sample of all firings, in no order: what a typical firing looks like."],
  ];
  const GROUPS = ["Strongest quarter", "Upper middle", "Lower middle", "Weakest quarter"];
  const WIDTHS = [
    ["5", "5", "Five tokens on either side"],
    ["16", "16", "Sixteen tokens on either side"],
    ["full", "Full", "The whole context"],
  ];

  const ZOOMS = [
    ["1", "1×", "The whole image"],
    ["3", "3×", "Around the strongest patch"],
    ["6", "6×", "Close to the strongest patch"],
  ];

  // A fixed order that looks like none.
  const scatter = (example) =>
    (Math.imul(example.context + 1, 0x9e3779b1) ^ Math.imul(example.position + 7, 0x85ebca6b)) >>> 0;

  function choice(label, options, current, choose) {
    const buttons = options.map(([value, text, tip]) =>
      el("button", {
        type: "button",
        "aria-pressed": String(value === current),
        tip,
        text,
        on: {
          click: () => {
            for (const other of buttons)
              other.setAttribute(
                "aria-pressed",
                String(other === buttons[options.findIndex(([v]) => v === value)]),
              );
            choose(value);
          },
        },
      }),
    );
    return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  }

  // What the host's loss gains without a firing, if that was measured.
  probe.lossChange = function (nats) {
    if (Number.isNaN(nats)) return null;
    return el(
      "span",
      { class: `loss ${nats > 0 ? "rises" : nats < 0 ? "falls" : ""}` },
      probe.term("loss", "loss_change"),
      ` ${nats > 0 ? "+" : ""}${probe.number(nats, 2)} nats`,
    );
  };

  async function textList(examples, feature, state) {
    // All at once: a file that is asked for after the page was drawn comes a frame later.
    const [vocabulary, list, ...pairs] = await Promise.all([
      probe.vocabulary(),
      probe.explorer().catch(() => null),
      ...examples.map(async (example) => ({ example, context: await probe.context(example.context) })),
    ]);
    const one = ({ example, context }) => {
      const text = probe.excerpt(example, context, feature, vocabulary, {
        width: state.ctx,
        glyphs: state.ws === "1",
      });
      const share = Math.min(1, example.value / (feature.max || 1));
      return el(
        "li",
        { class: "example" },
        el(
          "div",
          { class: "meta" },
          el("span", {
            class: "value",
            text: probe.number(example.value),
            tip: `activation ${probe.number(example.value, 4)}: ${probe.percent(share)} of the feature's maximum`,
          }),
          el(
            "span",
            { class: "meter", "aria-hidden": "true" },
            el("i", { style: { width: `${share * 100}%` } }),
          ),
        ),
        text,
        el(
          "div",
          { class: "where" },
          probe.inputLink(list, example, feature, probe.visible(context.document)),
          ` · ${probe.number(context.start + example.position)}`,
          probe.lossChange(example.loss),
        ),
      );
    };
    return el(
      "ol",
      { class: `examples w${state.ctx}` },
      probe.fold(pairs).map((pair) => {
        const item = one(pair);
        if (pair.alike.length) {
          const more = el("button", {
            class: "plain fold",
            tip: "Contexts that share at least 80 % of the tokens around the firing",
            text: `+ ${pair.alike.length} near-identical`,
          });
          more.addEventListener("click", () => {
            more.remove();
            item.after(...pair.alike.map(one));
          });
          item.append(more);
        }
        return item;
      }),
    );
  }

  async function imageList(examples, feature) {
    const [vocabulary, list, ...pictures] = await Promise.all([
      probe.vocabulary(),
      probe.explorer().catch(() => null),
      ...examples.map((example) => probe.picture(example.context)),
    ]);
    const plates = examples.map((example, i) =>
      probe.picturePlate(example, pictures[i], feature, vocabulary, list),
    );
    return el("div", { class: "plates" }, plates);
  }

  // The examples panel; `state` (tab, ctx, ws, heat) is kept in the address.
  probe.examples = function (feature, state, keep) {
    const isText = probe.report.manifest.kind === "text";
    const list = isText ? textList : imageList;
    const random = feature.examples.filter((example) => example.kind === "random");
    const body = el("div", { class: "example-body", role: "tabpanel", id: "examples", tabindex: "0" });
    const note = el("p", { class: "quiet" });
    let turn = 0;

    async function draw() {
      const mine = ++turn;
      note.textContent = TABS.find(([name]) => name === state.tab)[2];
      let found = null;
      try {
        if (state.tab === "top")
          found = [
            await list(
              feature.examples.filter((example) => example.kind === "top"),
              feature,
              state,
            ),
          ];
        else if (state.tab === "random")
          found = [
            await list(
              [...random].sort((a, b) => scatter(a) - scatter(b)),
              feature,
              state,
            ),
          ];
        else {
          const size = Math.ceil(random.length / 4) || 1;
          found = await Promise.all(
            GROUPS.map(async (name, i) => {
              const part = random.slice(i * size, (i + 1) * size);
              return (
                part.length > 0 &&
                el(
                  "section",
                  { class: "group" },
                  el(
                    "h3",
                    {},
                    name,
                    el("span", {
                      class: "quiet",
                      text: ` ${probe.number(part[part.length - 1].value)} to ${probe.number(part[0].value)}`,
                    }),
                  ),
                  await list(part, feature, state),
                )
              );
            }),
          );
        }
      } catch (error) {
        found = [probe.problem(error)];
      }
      if (mine !== turn) return;
      if (feature.examples.length === 0) found = [el("p", { class: "nothing", text: "No firing to show." })];
      body.replaceChildren(...found.filter(Boolean));
      body.dataset.ready = `${state.tab} ${state.ctx}`;
      for (const text of body.querySelectorAll(".text.wfull")) {
        const marked = text.querySelector(".marked");
        if (marked) text.scrollTop = marked.offsetTop - text.clientHeight / 2;
      }
    }
    const change = (part) => {
      Object.assign(state, part);
      keep(state);
      draw();
    };

    const tabs = el(
      "div",
      { class: "tabs", role: "tablist", "aria-label": "Examples" },
      TABS.map(([name, text]) =>
        el("button", {
          role: "tab",
          "aria-selected": String(name === state.tab),
          "aria-controls": "examples",
          tabindex: name === state.tab ? "0" : "-1",
          text,
          "data-tab": name,
          on: { click: (event) => pick(event.currentTarget) },
        }),
      ),
    );
    function pick(chosen) {
      for (const tab of tabs.children) {
        tab.setAttribute("aria-selected", String(tab === chosen));
        tab.tabIndex = tab === chosen ? 0 : -1;
      }
      chosen.focus({ preventScroll: true });
      change({ tab: chosen.dataset.tab });
    }
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const all = [...tabs.children];
      if (step) pick(all[(all.indexOf(event.target) + step + all.length) % all.length]);
    });

    const tools = el("div", { class: "example-tools" });
    if (isText) {
      const glyphs = el("button", {
        type: "button",
        class: "plain",
        "aria-pressed": String(state.ws === "1"),
        text: "¶",
        "aria-label": "Show whitespace",
        tip: "Show spaces, tabs and newlines",
      });
      glyphs.addEventListener("click", () => {
        glyphs.setAttribute("aria-pressed", String(state.ws !== "1"));
        change({ ws: state.ws === "1" ? "" : "1" });
      });
      tools.append(
        el("span", { class: "quiet", text: "Context" }),
        choice("Context width", WIDTHS, state.ctx, (ctx) => change({ ctx })),
        glyphs,
      );
    } else if (Math.max(...probe.report.manifest.layout.grid) > 1) {
      const slider = el("input", {
        type: "range",
        min: "0",
        max: "1",
        step: "0.05",
        value: state.heat,
        "aria-label": "Opacity of the heat map",
      });
      const set = () => {
        body.style.setProperty("--heat", slider.value);
      };
      slider.addEventListener("input", () => {
        set();
        state.heat = slider.value;
        keep(state);
      });
      set();
      const zoom = (value) => {
        state.zoom = value;
        body.classList.toggle("zoom", value !== "1");
        body.style.setProperty("--zoom", value);
      };
      zoom(state.zoom);
      tools.append(
        el("span", { class: "quiet", text: "Zoom" }),
        choice("Zoom to the strongest patch", ZOOMS, state.zoom, (value) => {
          zoom(value);
          keep(state);
        }),
        el("label", { class: "range" }, el("span", { text: "Heat map" }), slider),
      );
    }
    draw();
    return el(
      "section",
      { class: "panel example-panel" },
      el("div", { class: "panel-head" }, tabs, tools),
      note,
      body,
    );
  };
})(window.probe);
