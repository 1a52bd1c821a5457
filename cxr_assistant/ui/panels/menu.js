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

function show(value) {
  if (place.source === value.html) return;
  const isOpen = menu()?.open ?? false, hadFocus = place.contains(document.activeElement);
  place.source = value.html;
  place.innerHTML = value.html;
  menu().open = isOpen;
  if (hadFocus) menu().querySelector("summary").focus();
}
watch("value", () => show(props.value));
show(props.value);
