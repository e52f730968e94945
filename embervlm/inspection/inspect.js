"use strict";
(() => {
  const { samples, facts } = JSON.parse(document.getElementById("positions").textContent);
  const card = document.getElementById("card");
  const $ = (id) => document.getElementById(id);
  let open = null; // the label whose card is shown
  let held = false; // it was clicked, not only pointed at

  // Text is never parsed as HTML.
  const make = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = (p) => (p === 0 || p >= 0.0995 ? `${Math.round(100 * p)}%` : p >= 0.001 ? `${(100 * p).toFixed(1)}%` : "<0.1%");

  const bar = (list, name, kind, [plain, tempered]) => {
    const line = make("span", "bar"), filled = make("i"), mark = make("b");
    filled.style.width = `${100 * plain}%`;
    mark.style.left = `${100 * tempered}%`;
    line.append(filled, mark);
    list.append(make(kind === "rest" ? "span" : "code", kind, name), line, make("span", "num", percent(plain)), make("span", "num", percent(tempered)));
  };

  const teacher = (said, at) => {
    const box = make("div"), head = make("h3"), [name, share] = facts.teachers[at];
    head.append(make("span", `swatch ${said.kind}`), make("bdi", "", facts.teachers.length > 1 ? `${Math.round(100 * share)}% ${name}` : name));
    const words = said.kind === "none" ? "no target" : said.kind;
    head.append(make("span", "num", said.events.length && !facts.ranks ? `${words}, label ${percent(said.label[0])}` : words));
    box.append(head);
    if (!said.events.length) {
      const others = facts.teachers.length > 1 ? "the other teachers take its share" : "the student learns from the label alone";
      box.append(make("div", "soft", `Nothing can be said here: ${others}.`));
      return box;
    }
    const list = make("div", "of");
    for (const [text, plain, tempered, label] of said.events) bar(list, text, label ? "label" : "", [plain, tempered]);
    const [count, ...together] = said.others;
    if (count) bar(list, `${count} more`, "rest", together);
    bar(list, "the rest", "rest", said.rest);
    box.append(list);
    return box;
  };

  const show = (label) => {
    if (open) open.setAttribute("aria-expanded", "false");
    open = label;
    label.setAttribute("aria-expanded", "true");
    const position = samples[label.closest(".sample").dataset.s][label.dataset.n];
    const head = make("div", "head");
    head.append(`position ${position.at} reads`, make("code", "", position.reads), "asked for", make("code", "", position.label), `(${position.id})`);
    card.replaceChildren(head, ...position.said.map(teacher));
    if (position.said.length) card.append(make("div", "axis", `T = 1, and T = ${facts.temperature} (mark)`));
    else card.append(make("div", "soft", facts.teachers.length ? "The teacher was not asked about this record." : "No teacher: the label alone."));
    card.hidden = false;
    if (matchMedia("(max-width: 640px)").matches) return;
    const place = label.getBoundingClientRect(), size = card.getBoundingClientRect();
    const above = place.bottom + size.height + 10 > innerHeight && place.top > size.height + 10;
    const left = Math.max(8, Math.min(place.left + place.width / 2 - size.width / 2, document.documentElement.clientWidth - size.width - 8));
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(above ? place.top - size.height - 8 : place.bottom + 8) + scrollY}px`;
  };
  const hide = () => {
    if (open) open.setAttribute("aria-expanded", "false");
    open = null;
    held = false;
    card.hidden = true;
  };

  const labelAt = (target) => (target instanceof Element ? target.closest("button.t") : null);
  document.addEventListener("pointerover", (event) => {
    const label = labelAt(event.target);
    if (event.pointerType !== "mouse" || held) return;
    if (label) show(label);
    else if (open && !card.contains(event.target)) hide();
  });
  document.addEventListener("click", (event) => {
    const label = labelAt(event.target);
    if (label) {
      if (held && label === open) return hide();
      held = true;
      show(label);
    } else if (!card.contains(event.target)) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const label = labelAt(document.activeElement);
    if (!step || !label) return;
    const row = [...label.closest(".sample").querySelectorAll("button.t")];
    const next = row[row.indexOf(label) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    held = true;
    show(next);
  });

  const all = [...document.querySelectorAll(".sample")];
  const filter = () => {
    hide();
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const source = $("source")?.value, warned = $("warned").checked;
    let left = 0;
    for (const sample of all) {
      const { text, source: mine, warned: has } = sample.dataset;
      const stays = words.every((word) => text.includes(word)) && (!source || source === mine) && (!warned || has === "1");
      sample.hidden = !stays;
      left += stays;
    }
    for (const box of document.querySelectorAll(".group-of, .batch")) box.hidden = !box.querySelector(".sample:not([hidden])");
    $("count").textContent = `${left} of ${all.length} samples`;
    $("nothing").hidden = left > 0;
  };
  for (const id of ["search", "source", "warned"]) $(id)?.addEventListener("input", filter);
  $("reset").addEventListener("click", () => {
    $("search").value = "";
    if ($("source")) $("source").value = "";
    $("warned").checked = false;
    filter();
  });
})();
