// The chat panel: a log that is patched entry by entry, tasks with their exact words, and the composer.
// Entries arrive as markup escaped on the server; what a person types is only ever read as text.

const find = (selector) => element.querySelector(selector);
const log = find(".log"), composer = find(".composer"), box = find("textarea"), sendButton = find(".send");
const indication = find("input[name=indication]"), taskBar = find(".tasks"), picked = find(".picked"), choices = find(".text-choices");
let task = "question", study = null, isBusy = false;

// --- the log ----------------------------------------------------------------------------------------
function patchLog(items, welcome) {
  const nearEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  const known = new Map([...log.querySelectorAll("article")].map((article) => [article.dataset.key, article]));
  for (const [key, article] of known) if (!items.some((item) => item.key === key)) article.remove();
  let grew = false;
  for (const item of items) {
    let article = known.get(item.key);
    if (!article) {
      article = document.createElement("article");
      article.dataset.key = item.key;
      log.append(article);
      grew = true;
    }
    if (article.source !== item.html && !article.querySelector("form")) {
      article.source = item.html;
      patchArticle(article, item.html);
    }
  }
  find(".welcome-place").innerHTML = welcome;
  if (nearEnd || grew) log.scrollTop = log.scrollHeight;
  if (grew && matchMedia("(max-width: 900px)").matches) log.lastElementChild.scrollIntoView({ block: "center" });
}
// While text streams only the words change: replacing just these keeps a selection elsewhere alive.
function patchArticle(article, html) {
  const next = document.createElement("template");
  next.innerHTML = html;
  const [old, fresh] = [article.querySelector(".draft .words"), next.content.querySelector(".draft .words")];
  const frame = (root) => { const copy = root.cloneNode(true); copy.querySelectorAll(".draft .words").forEach((n) => n.replaceChildren()); return copy; };
  if (old && fresh) {
    const holder = document.createElement("div");
    holder.append(frame(next.content));
    if (holder.innerHTML === frame(article).innerHTML) { old.innerHTML = fresh.innerHTML; return; }
  }
  article.replaceChildren(next.content);
}

log.addEventListener("click", (event) => {
  const button = event.target.closest("button"), article = event.target.closest("article");
  if (!button || !article) return;
  if (button.dataset.model) trigger("choose", { name: button.dataset.model });
  if (button.dataset.plan) trigger("plan", { name: button.dataset.plan });
  const act = { copy: copyAnswer, edit: editQuestion, boxes: showBoxes, retry: () => run("retry", {}), undo: () => trigger("undo", {}) };
  act[button.dataset.act]?.(article, button);
});
function showBoxes() { document.dispatchEvent(new CustomEvent("cxr-boxes")); }
document.addEventListener("cxr-boxes-shown", (event) => {
  for (const button of log.querySelectorAll("[data-act=boxes]")) button.textContent = event.detail.on ? "Hide on the film" : "Show on the film";
});
async function copyAnswer(article, button) {
  const text = article.querySelector(".draft .words").innerText.trim();
  try { await navigator.clipboard.writeText(text); } catch { copyBySelection(text); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
function copyBySelection(text) {
  const place = document.createElement("textarea");
  place.value = text; place.className = "sr-only"; document.body.append(place); place.select();
  document.execCommand("copy"); place.remove();
}
function editQuestion(article) {
  const question = article.querySelector(".question"), words = question.querySelector(".words");
  const form = document.createElement("form"), field = document.createElement("textarea");
  field.value = words.innerText; field.rows = 2; field.setAttribute("aria-label", "Edit the question");
  const save = new DOMParser().parseFromString('<div class="acts"><button class="primary">Ask again</button><button type="button">Cancel</button></div>', "text/html").body.firstChild;
  form.append(field, save);
  const close = () => { form.remove(); words.hidden = false; };
  save.querySelector("[type=button]").onclick = close;
  form.onkeydown = (event) => { if (event.key === "Escape") close(); if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); } };
  form.onsubmit = (event) => { event.preventDefault(); const prompt = field.value.trim(); close(); if (prompt) run("edit", { number: Number(article.dataset.key), prompt }); };
  words.hidden = true; words.after(form); field.focus();
}

// --- tasks: one press sends the exact words, the pencil lets them be changed first --------------------
function writeTasks(tasks, ready) {
  const source = JSON.stringify([tasks, ready]);
  if (taskBar.source === source) return;
  taskBar.source = source;
  taskBar.replaceChildren(...tasks.map((entry) => {
    const chip = document.createElement("div"), go = document.createElement("button"), change = document.createElement("button");
    const title = document.createElement("b"), words = document.createElement("span");
    chip.className = "task"; go.type = change.type = "button"; go.dataset.task = entry.task;
    title.textContent = entry.title; words.textContent = entry.prompt; go.title = entry.prompt; go.append(title, words);
    change.className = "pencil"; change.textContent = "Edit"; change.setAttribute("aria-label", "Edit the words of: " + entry.title);
    go.disabled = change.disabled = !ready;
    go.onclick = () => (entry.needs_text ? compose(entry) : send(entry.task, entry.prompt));
    change.onclick = () => compose(entry);
    chip.append(go, change);
    return chip;
  }));
}
function compose(entry) {
  setTask(entry.task, entry.title);
  offerChoices(entry);
  box.value = entry.prompt;
  grow(); box.focus();
  const gap = entry.prompt.indexOf("{text}");
  if (gap >= 0) box.setSelectionRange(gap, gap + 6); else box.setSelectionRange(box.value.length, box.value.length);
}
// What may stand in the place of {text}, where the model was trained on a list of it.
function offerChoices(entry) {
  choices.replaceChildren(...(entry.choices ?? []).map((choice) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = choice;
    button.onclick = () => { box.value = entry.prompt.replace("{text}", () => choice); grow(); box.focus(); };
    return button;
  }));
}
function setTask(name, title) {
  task = name;
  choices.replaceChildren();
  picked.hidden = name === "question";
  picked.querySelector("b").textContent = title || "";
}

// --- the composer -----------------------------------------------------------------------------------
function run(kind, data) { setBusy(true); trigger(kind, { ...data, indication: indication.value }); }
function send(name, prompt) {
  if (isBusy || !prompt.trim() || box.disabled) return;
  run("send", { task: name, prompt: prompt.trim() });
  box.value = ""; setTask("question"); grow();
}
function grow() { box.style.height = "auto"; box.style.height = Math.min(box.scrollHeight, 180) + "px"; }
function setBusy(busy) {
  isBusy = busy;
  element.dataset.busy = String(busy);
  log.setAttribute("aria-busy", String(busy));
  sendButton.textContent = busy ? "Stop" : "Send";
  sendButton.classList.toggle("stop", busy);
  sendButton.classList.toggle("primary", !busy);
}
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (isBusy) trigger("stop", {}); else send(task, box.value);
});
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!isBusy) composer.requestSubmit(); }
});
box.addEventListener("input", grow);
picked.querySelector("button").onclick = () => { setTask("question"); box.focus(); };
document.addEventListener("cxr-offline", () => setBusy(false));

function show(value) {
  if (value.study !== study) { study = value.study; indication.value = value.indication; setTask("question"); }
  box.disabled = !value.ready; sendButton.disabled = !value.ready; indication.disabled = !value.ready;
  box.placeholder = value.placeholder;
  writeTasks(value.tasks, value.ready);
  setBusy(value.busy);
  patchLog(value.items, value.welcome);
}
watch("value", () => show(props.value));
show(props.value);
