"use strict";
// Keys for a person who looks at hundreds of pictures. Everything works without them, by Tab and Enter.
const cards = [...document.querySelectorAll("a.card")];

function step(by) {
  const at = cards.indexOf(document.activeElement);
  const next = cards[at < 0 ? 0 : Math.min(Math.max(at + by, 0), cards.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}

function perRow() {
  if (!cards.length) return 1;
  const top = cards[0].getBoundingClientRect().top;
  return Math.max(1, cards.filter((card) => Math.abs(card.getBoundingClientRect().top - top) < 4).length);
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
  return Boolean(link);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && "nlg".includes(event.key)) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === "Escape") {
    if (typing) document.activeElement.blur(); else follow("a.back");
    return;
  }
  if (typing) return;
  const grid = cards.length > 0;
  const moves = { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1, ArrowDown: perRow(), j: perRow(), ArrowUp: -perRow(), k: -perRow() };
  if (event.key === "/") {
    const search = document.getElementById("search");
    if (search) { search.focus(); search.select(); } else follow("a.back");
  } else if (grid && event.key in moves) step(moves[event.key]);
  else if (!grid && "nlg".includes(event.key) && follow(`[data-key=${event.key}]`)) { /* a decision about this example */ }
  else if (event.key === "n") follow("a.more");
  else if (!grid && (event.key === "ArrowRight" || event.key === "j")) follow("a[rel=next]");
  else if (!grid && (event.key === "ArrowLeft" || event.key === "k")) follow("a[rel=prev]");
  else return;
  event.preventDefault();
});
