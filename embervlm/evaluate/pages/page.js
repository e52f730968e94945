"use strict";
// Filters of the questions. Without scripts every question is simply shown.
(() => {
  const bar = document.querySelector(".filters");
  if (!bar) return;
  bar.hidden = false;
  const cards = [...document.querySelectorAll(".gallery .shot")].map((card) => [card, card.textContent.toLowerCase()]);
  const galleries = document.querySelectorAll(".gallery");
  const choices = [...bar.querySelectorAll("select")];
  const search = bar.querySelector("input");
  const counted = bar.querySelector("output");
  const nothing = document.querySelector(".nothing");
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const [card, text] of cards) {
      const fits = choices.every((choice) => !choice.value || card.dataset[choice.name] === choice.value)
        && words.every((word) => text.includes(word));
      card.hidden = !fits;
      left += fits;
    }
    for (const gallery of galleries) {
      const empty = !gallery.querySelector(".shot:not([hidden])");
      gallery.hidden = empty;
      if (gallery.previousElementSibling.tagName === "H3") gallery.previousElementSibling.hidden = empty;
    }
    counted.value = `${left.toLocaleString("en")} of ${cards.length.toLocaleString("en")} shown`;
    nothing.hidden = left > 0;
  };
  bar.addEventListener("input", apply);
  apply();
})();
