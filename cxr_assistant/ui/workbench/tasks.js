// Tasks: one press sends the exact words, "Edit" lets them be changed first.

const taskBar = find(".tasks"), picked = find(".picked"), choices = find(".text-choices"), box = find("textarea");
const GAP = "{text}";
let task = "question";

function writeTasks(tasks, ready) {
  const source = JSON.stringify([tasks, ready]);
  if (taskBar.source === source) return;
  const focused = taskBar.contains(document.activeElement) && document.activeElement.dataset.task;
  taskBar.source = source;
  taskBar.replaceChildren(...tasks.map((entry) => chipOf(entry, ready)));
  // A row that scrolls and holds nothing that can be focused is out of reach of the keyboard.
  if (ready) taskBar.removeAttribute("tabindex"); else taskBar.tabIndex = 0;
  if (focused) taskBar.querySelector('[data-task="' + focused + '"]')?.focus();
}
function chipOf(entry, ready) {
  const chip = document.createElement("div"), go = document.createElement("button"), change = document.createElement("button");
  const title = document.createElement("b"), words = document.createElement("span");
  chip.className = "task"; go.type = change.type = "button"; go.dataset.task = entry.task;
  title.textContent = entry.title; words.textContent = entry.prompt; go.title = entry.detail || entry.prompt; go.append(title, words);
  change.className = "pencil"; change.textContent = "Edit"; change.setAttribute("aria-label", "Edit the words of: " + entry.title);
  go.disabled = change.disabled = !ready;
  go.onclick = () => (entry.in_steps ? sendSteps(entry) : entry.needs_text ? compose(entry) : send(entry.task, entry.prompt));
  change.onclick = () => compose(entry);
  chip.append(go, ...(entry.in_steps || entry.forms ? [] : [change]));
  return chip;
}
function compose(entry) {
  setTask(entry.task, entry.title);
  offerChoices(entry);
  if (entry.forms) choices.firstChild.focus(); else fill(entry.prompt);
}
// Words in the composer, and what is still to be put in selected, so that typing replaces it.
function fill(words) {
  box.value = words;
  grow(); box.focus();
  if (!selectGap()) box.setSelectionRange(words.length, words.length);
}
function selectGap() {
  const gap = box.value.indexOf(GAP);
  if (gap >= 0) { box.focus(); box.setSelectionRange(gap, gap + GAP.length); }
  return gap >= 0;
}
// What may stand in the place of {text}, where the model was trained on a list of it; or whole requests.
function offerChoices(entry) {
  const offers = entry.forms ?? (entry.choices ?? []).map((choice) => ({ title: choice, prompt: entry.prompt.replace(GAP, () => choice) }));
  choices.replaceChildren(...offers.map((offer) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = offer.title; button.title = offer.prompt;
    button.onclick = () => fill(offer.prompt);
    return button;
  }));
}
function setTask(name, title) {
  task = name;
  choices.replaceChildren();
  picked.hidden = name === "question";
  picked.querySelector("b").textContent = title || "";
}
picked.querySelector("button").onclick = () => { setTask("question"); box.focus(); };
