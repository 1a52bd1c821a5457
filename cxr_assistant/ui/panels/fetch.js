// The sheet on which a model is fetched: what it takes, its licence, one progress bar, its end.
// While it runs only the bar and its words change.

const place = element.querySelector(".fetch-place");
place.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.fetch) trigger("fetch", { name: button.dataset.fetch });
  if (button.dataset.plan) trigger("plan", { name: button.dataset.plan });
  if (button.dataset.model) { trigger("choose", { name: button.dataset.model }); hide(); }
  if (button.dataset.do === "stop") trigger("stop", {});
  if (button.dataset.do === "close") hide();
});
function hide() { place.replaceChildren(); place.source = ""; }
function show(value) {
  if (place.source !== value.html) {
    const isNew = !place.firstChild;
    place.source = value.html;
    place.innerHTML = value.html;
    if (isNew) place.querySelector(".fetch")?.focus();
  }
  const bar = place.querySelector("progress");
  if (!bar) return;
  if (value.fraction === null) bar.removeAttribute("value"); else bar.value = value.fraction;
  place.querySelector(".progress-words").textContent = value.sentence;
}
watch("value", () => show(props.value));
show(props.value);
