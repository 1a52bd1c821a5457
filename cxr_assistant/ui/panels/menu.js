// The model menu: choosing closes it, and so does a click elsewhere or Escape. It is asked for anew when it is
// opened, because models may have been fetched and memory taken since.

const place = element.querySelector(".menu-place");
const menu = () => place.querySelector("details");
const close = () => { if (menu()) menu().open = false; };
function choose(card, name) {
  trigger("choose", { name, precision: card?.querySelector("[data-precision]")?.value ?? "" });
}
place.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.model) { close(); choose(button.closest("article"), button.dataset.model); }
  if (button.dataset.plan) { close(); trigger("plan", { name: button.dataset.plan }); }
});
place.addEventListener("change", (event) => {
  const select = event.target.closest("[data-precision]");
  if (select?.closest(".is-chosen")) choose(select.closest("article"), select.dataset.precision);
});
place.addEventListener("toggle", () => { if (menu().open) trigger("refresh", {}); }, true);
document.addEventListener("click", (event) => { if (!event.composedPath().includes(element)) close(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && menu()?.open) { close(); menu().querySelector("summary").focus(); } });

// What has the focus, in words that find it in a menu drawn anew: somebody may be on the way through it by Tab.
function focused() {
  const held = place.contains(document.activeElement) ? document.activeElement : null;
  const kind = held && ["model", "plan", "precision"].find((kind) => kind in held.dataset);
  return held && (kind ? `[data-${kind}="${CSS.escape(held.dataset[kind])}"]` : "summary");
}
function show(value) {
  // A reply to opening may arrive after the reply to a choice, and would show the model that was left.
  if (place.source === value.html || value.choices < place.choices) return;
  place.choices = value.choices;
  const isOpen = menu()?.open ?? false, selector = isOpen ? focused() : focused() && "summary";
  place.source = value.html;
  place.innerHTML = value.html;
  menu().open = isOpen;
  if (selector) (menu().querySelector(selector) ?? menu().querySelector("summary")).focus();
}
watch("value", () => show(props.value));
show(props.value);
