// Tasks: one press sends the exact words, "Edit" lets them be changed first.

const taskBar = find(".tasks"), picked = find(".picked"), choices = find(".text-choices"), box = find("textarea");
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
  chip.append(go, ...(entry.in_steps ? [] : [change]));
  return chip;
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
picked.querySelector("button").onclick = () => { setTask("question"); box.focus(); };
