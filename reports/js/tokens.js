"use strict";
// Contexts as text: tokens joined into whole characters, coloured by activation.
(function (probe) {
  const { el } = probe;
  const decoder = new TextDecoder("utf-8");
  const strict = new TextDecoder("utf-8", { fatal: true });
  const HIDDEN =
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

  // How many bytes the last character still lacks.
  function missing(bytes) {
    for (let back = 1; back <= Math.min(3, bytes.length); back++) {
      const byte = bytes[bytes.length - back];
      if ((byte & 0xc0) === 0x80) continue;
      const size =
        byte >= 0xf0 && byte < 0xf8
          ? 4
          : byte >= 0xe0 && byte < 0xf0
            ? 3
            : byte >= 0xc0 && byte < 0xe0
              ? 2
              : 1;
      return Math.max(0, size - back);
    }
    return 0;
  }
  const continues = (bytes) => bytes.length > 0 && (bytes[0] & 0xc0) === 0x80;

  function join(parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  // The text of one token alone; bytes that are no whole character as hex.
  probe.tokenText = function (vocabulary, rank) {
    if (rank < 1) return "?";
    const bytes = vocabulary.bytes(rank);
    try {
      return strict.decode(bytes);
    } catch {
      return `‹${[...bytes].map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}›`;
    }
  };

  // Tokens from..to (end not included) of a context in groups whose texts are whole characters.
  probe.groups = function (context, vocabulary, from, to) {
    const bytesAt = (at) => (context.tokens[at] ? vocabulary.bytes(context.tokens[at]) : new Uint8Array(0));
    let start = Math.max(0, from);
    for (let i = 0; i < 3 && start > 0 && continues(bytesAt(start)) && missing(bytesAt(start - 1)); i++)
      start -= 1;
    const found = [];
    const end = Math.min(context.tokens.length, to);
    for (let at = start; at < end;) {
      const members = [at];
      let bytes = bytesAt(at);
      at += 1;
      while (missing(bytes) && at < context.tokens.length && continues(bytesAt(at))) {
        bytes = join([bytes, bytesAt(at)]);
        members.push(at);
        at += 1;
      }
      found.push({
        members,
        text: decoder.decode(bytes),
        special: vocabulary.isSpecial(context.tokens[members[0]]),
      });
    }
    return found;
  };

  // Fill an element with a token's text: whitespace and hidden characters as glyphs where asked or needed.
  function fill(span, text, { breaks, glyphs }) {
    const glyph = (char) => el("i", { class: "ws", text: char });
    for (const part of text.split(/(\r?\n|\t| +)/)) {
      if (part === "") continue;
      if (/^\r?\n$/.test(part)) {
        if (glyphs || !breaks) span.append(glyph("↵"));
        if (breaks) span.append("\n");
      } else if (part === "\t") span.append(...(glyphs ? [glyph("→"), "   "] : ["\t"]));
      else if (/^ +$/.test(part))
        span.append(...(glyphs ? [glyph("·".repeat(part.length)), el("wbr")] : [part]));
      else {
        span.append(
          part.replace(HIDDEN, (char) =>
            char < " "
              ? String.fromCharCode(0x2400 + char.charCodeAt(0))
              : `‹${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`,
          ),
        );
      }
    }
  }

  probe.fillToken = fill;

  function tokenSpan(group, example, context, feature, vocabulary, how) {
    const levels = group.members.map((at) => example.fired.get(at) || 0);
    const level = Math.max(...levels);
    const marked = group.members.includes(example.position);
    const span = el("span", {
      class: `token${level ? " fires" : ""}${marked ? " marked" : ""}${group.special ? " special" : ""}`,
      tabindex: marked ? "0" : null,
    });
    if (level) span.style.setProperty("--level", level.toFixed(3));
    fill(span, group.text, how);
    probe.tip(span, () =>
      group.members
        .flatMap((at, i) => {
          const value = at === example.position ? example.value : levels[i] * feature.max;
          const near = at === example.position || !levels[i] ? "" : "≈ ";
          return [
            `“${probe.visible(probe.tokenText(vocabulary, context.tokens[at]))}”  id ${vocabulary.id(context.tokens[at])}`,
            levels[i]
              ? `activation ${near}${probe.number(value, 4)} (${probe.percent(value / feature.max)} of maximum)`
              : group.special
                ? "special token: not recorded"
                : "does not fire",
          ];
        })
        .concat(
          `${probe.visible(context.document)}, token ${probe.number(context.start + group.members[0])}`,
        ),
    );
    return span;
  }

  // The window of an example: "5" in three columns around the firing, "16" as a line, "full" with line breaks.
  probe.excerpt = function (example, context, feature, vocabulary, { width, glyphs }) {
    const around = width === "full" ? context.tokens.length : Number(width);
    const how = { breaks: width === "full", glyphs };
    const from = example.position - around;
    const to = example.position + around + 1;
    const groups = probe.groups(context, vocabulary, from, to);
    const spans = groups.map((group) => tokenSpan(group, example, context, feature, vocabulary, how));
    const before = from > 0 && groups[0]?.members[0] > 0 && el("span", { class: "more", text: "…" });
    const after = to < context.tokens.length && el("span", { class: "more", text: "…" });
    if (width !== "5")
      return el("div", { class: `text w${width}`, dir: "auto", lang: "" }, before, spans, after);
    const middle = groups.findIndex((group) => group.members.includes(example.position));
    return el(
      "div",
      { class: "text w5", lang: "" },
      el("div", { class: "left" }, el("span", {}, spans.slice(0, middle))),
      el("div", { class: "right" }, spans.slice(middle)),
    );
  };

  // Fold examples whose windows say nearly the same: at least 80 % of the tokens around are shared.
  probe.fold = function (pairs) {
    const bag = ({ example, context }) => {
      const counts = new Map();
      for (
        let at = Math.max(0, example.position - 12);
        at < Math.min(context.tokens.length, example.position + 5);
        at++
      ) {
        counts.set(context.tokens[at], (counts.get(context.tokens[at]) || 0) + 1);
      }
      return counts;
    };
    const total = (counts) => [...counts.values()].reduce((a, b) => a + b, 0);
    const kept = [];
    for (const pair of pairs) {
      const counts = bag(pair);
      const twin = kept.find((other) => {
        let shared = 0;
        for (const [token, count] of counts) shared += Math.min(count, other.counts.get(token) || 0);
        return shared >= 0.8 * Math.max(total(counts), total(other.counts));
      });
      if (twin) twin.alike.push(pair);
      else kept.push({ ...pair, counts, alike: [] });
    }
    return kept;
  };
})(window.probe);
