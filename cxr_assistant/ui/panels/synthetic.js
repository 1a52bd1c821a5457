// The panel that makes a synthetic patient: a plain form; side and severity follow the finding.

const field = (name) => element.querySelector("[name=" + name + "]");
function fill(name, words) {
  const select = field(name), title = (word) => word[0].toUpperCase() + word.slice(1);
  select.replaceChildren(new Option(words.length ? "By chance" : "Does not apply", ""), ...words.map((word) => new Option(title(word), word)));
  select.disabled = !words.length;
}
function follow() {
  const chosen = field("finding").selectedOptions[0], words = (kind) => (chosen.dataset[kind] || "").split(" ").filter(Boolean);
  fill("side", words("sides"));
  fill("severity", words("severities"));
}
element.addEventListener("change", (event) => { if (event.target.name === "finding") follow(); });
element.addEventListener("submit", (event) => {
  event.preventDefault();
  trigger("make", Object.fromEntries(new FormData(event.target)));
  element.querySelector("details").open = false;
});
document.addEventListener("click", (event) => { if (!element.contains(event.target)) element.querySelector("details").open = false; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") element.querySelector("details").open = false; });
follow();
