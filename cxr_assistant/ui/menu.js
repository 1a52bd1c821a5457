// The model menu: choosing closes it, and so does a click elsewhere or Escape.

const menu = () => element.querySelector("details");
element.addEventListener("click", (event) => {
  const name = event.target.closest("[data-model]")?.dataset.model;
  if (name) { menu().open = false; trigger("choose", { name }); }
});
document.addEventListener("click", (event) => { if (!element.contains(event.target)) menu().open = false; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && menu().open) { menu().open = false; menu().querySelector("summary").focus(); } });
