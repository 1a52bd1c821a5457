// The composer: the question and what is set beside it. What a person types is only ever read as text.

const composer = find(".composer"), sendButton = find(".send"), indication = find("input[name=indication]");
const drawer = find(".drawer"), drawerButton = find(".settings-button"), rival = find("[name=rival]"), blind = find("[name=is_blind]");
const field = (name) => drawer.querySelector("[name=" + name + "]");
let study = null, isBusy = false, wantsStop = false, stoppedAt = 0, limits = null;

function run(kind, data) {
  setBusy(true);
  trigger(kind, { ...data, indication: indication.value, ...settings(), rival: rival.value, is_blind: blind.checked });
}
function send(name, prompt) {
  if (isBusy || !prompt.trim() || box.disabled) return;
  if (box.value === prompt && selectGap()) return;  // something is still to be put in
  sketch(prompt.trim());
  run("send", { task: name, prompt: prompt.trim() });
  box.value = ""; setTask("question"); grow();
}
function sendSteps(entry) {
  if (isBusy || box.disabled) return;
  sketch(entry.title);
  run("send", { in_steps: true });
}
// A stop that overtakes its own question is said again when the answer begins.
function stop() { wantsStop = true; stoppedAt = performance.now(); trigger("stop", {}); }
function grow() { box.style.height = "auto"; box.style.height = Math.min(box.scrollHeight, 180) + "px"; }
function setBusy(busy) {
  isBusy = busy;
  element.dataset.busy = String(busy);
  log.setAttribute("aria-busy", String(busy));
  sendButton.textContent = busy ? "Stop" : rival.value ? "Compare" : "Send";
  sendButton.classList.toggle("stop", busy);
  sendButton.classList.toggle("primary", !busy);
  if (!busy) { wantsStop = false; find(".sketch")?.remove(); }
}
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (isBusy) stop(); else send(task, box.value);
});
box.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); if (!isBusy) composer.requestSubmit(); }
  if (event.key === "ArrowUp" && !box.value) { const last = [...log.querySelectorAll("[data-act=edit]")].pop(); if (last) { event.preventDefault(); last.click(); } }
});
box.addEventListener("input", grow);
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (isBusy) stop(); else if (!drawer.hidden) { toggleDrawer(); drawerButton.focus(); }
});

// --- how the answer is generated ----------------------------------------------------------------------
const NAMES = ["temperature", "top_p", "max_new_tokens", "seed"];
const isGreedy = () => Number(field("temperature").value) === 0;
function settings() { return Object.fromEntries(NAMES.map((name) => [name, field(name).value])); }
function toggleDrawer() {
  drawer.hidden = !drawer.hidden;
  drawerButton.setAttribute("aria-expanded", String(!drawer.hidden));
  if (!drawer.hidden) field("temperature").focus();
}
function writeSettings() {
  const { temperature, top_p, max_new_tokens, seed } = settings();
  field("temperature_value").value = isGreedy() ? "0, greedy" : temperature;
  field("top_p_value").value = top_p;
  field("top_p").disabled = field("seed").disabled = isGreedy();
  find(".drawer-words").textContent = isGreedy()
    ? "Greedy takes the most likely token each time: the same question gives the same answer."
    : "Tokens are drawn by chance. The seed is told under the answer, so that it can be had again.";
  const words = isGreedy() ? ["greedy"] : ["temperature " + temperature, ...(Number(top_p) < 1 ? ["top-p " + top_p] : []), ...(seed ? ["seed " + seed] : [])];
  find(".settings-words").textContent = [...words, ...(max_new_tokens ? [max_new_tokens + " tokens"] : [])].join(", ");
}
function fillSettings(values) {
  for (const name of NAMES) field(name).value = values[name];
  writeSettings();
}
function setLimits(next) {
  if (JSON.stringify(limits) === JSON.stringify(next)) return;
  limits = next;
  for (const name of NAMES) Object.assign(field(name), { min: next[name].min, max: next[name].max, step: next[name].step });
  field("max_new_tokens").step = 1;
  field("max_new_tokens").placeholder = next.max_new_tokens.usual;
  if (Number(field("max_new_tokens").value) > next.max_new_tokens.max) field("max_new_tokens").value = next.max_new_tokens.max;
}
drawerButton.onclick = toggleDrawer;
drawer.addEventListener("input", writeSettings);
drawer.addEventListener("change", (event) => {
  const input = event.target, value = Number(input.value); // a number outside its limits is brought back to them
  if (input.value !== "") input.value = Math.min(Math.max(input.type === "number" ? Math.round(value) : value, Number(input.min)), Number(input.max));
  writeSettings();
});
drawer.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); toggleDrawer(); box.focus(); } });
find(".drawer-reset").onclick = () => fillSettings({ temperature: "0", top_p: "1", max_new_tokens: "", seed: "" });

// --- two models ---------------------------------------------------------------------------------------
function writeRivals(rivals) {
  const source = JSON.stringify(rivals);
  if (rival.source === source) return;
  rival.source = source;
  const chosen = rival.value;
  rival.replaceChildren(new Option("nobody", ""), ...rivals.map((other) => new Option(other.title, other.name)));
  rival.value = rivals.some((other) => other.name === chosen) ? chosen : "";
  rival.disabled = !rivals.length;
  rival.title = rivals.length ? "" : "No other model is on this computer yet";
  followRival();
}
function followRival() { find(".blind").hidden = !rival.value; setBusy(isBusy); }
rival.onchange = followRival;

// --- the whole panel ----------------------------------------------------------------------------------
function show(value) {
  setLimits(value.limits);
  if (value.study !== study) { study = value.study; indication.value = value.indication; setTask("question"); fillSettings(value.decoding); }
  box.disabled = sendButton.disabled = indication.disabled = !value.ready;
  box.placeholder = value.placeholder;
  writeTasks(value.tasks, value.ready);
  writeRivals(value.rivals);
  patchLog(value.items, value.welcome);
  setBusy(value.busy);
  if (value.busy && wantsStop && performance.now() - stoppedAt > 400) stop();
}
document.addEventListener("cxr-offline", () => setBusy(false));
// Only the newest value is drawn, once a frame: a browser that is busy falls behind in frames, never in text.
let isDue = false;
function draw() { if (!isDue) return; isDue = false; show(props.value); }
watch("value", () => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
  setTimeout(draw, 250); // a tab in the background has no frames
});
show(props.value);
