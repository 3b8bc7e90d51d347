"use strict";
// A person's own labels, notes and stars: kept in this browser, exported and imported as a file.
(function (probe) {
  const FORMAT = "probe_sae.labels";
  let own = null;

  function key() {
    const { site, store, sae, features } = probe.report.manifest;
    return `probe_sae.notes ${JSON.stringify([site, store, sae, features])}`;
  }

  function all() {
    if (own === null) {
      try {
        own = JSON.parse(probe.recall(key())) || {};
      } catch {
        own = {};
      }
    }
    return own;
  }

  const EMPTY = { label: "", note: "", star: false };

  probe.notes = {
    get: (feature) => all()[feature] || probe.report.baked[feature] || EMPTY,

    set(feature, change) {
      all()[feature] = { ...probe.notes.get(feature), ...change };
      probe.remember(key(), JSON.stringify(own));
      dispatchEvent(new Event("noteschange"));
    },

    // Features that have any entry, the report's own and this browser's.
    entries: () => ({ ...probe.report.baked, ...all() }),

    export() {
      const labels = Object.fromEntries(
        Object.entries(probe.notes.entries()).filter(([, entry]) => entry.label || entry.note || entry.star),
      );
      const text = JSON.stringify({ format: FORMAT, version: 1, labels }, null, 1);
      probe.download("labels.json", "application/json", text);
    },

    async import(file) {
      let found = null;
      try {
        found = JSON.parse(await file.text());
      } catch {
        /* told below */
      }
      if (!found || found.format !== FORMAT || typeof found.labels !== "object" || found.labels === null) {
        probe.say(`${file.name} is not a file of labels from a report.`);
        return;
      }
      let count = 0;
      for (const [feature, entry] of Object.entries(found.labels)) {
        if (!/^\d+$/.test(feature) || Number(feature) >= probe.report.count || !entry) continue;
        all()[feature] = {
          label: String(entry.label || ""),
          note: String(entry.note || ""),
          star: Boolean(entry.star),
        };
        count += 1;
      }
      probe.remember(key(), JSON.stringify(own));
      dispatchEvent(new Event("noteschange"));
      probe.say(`${count} labels read from ${file.name}.`);
    },
  };
})(window.probe);
