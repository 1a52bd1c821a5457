// The log: patched entry by entry, never rebuilt. Entries arrive as markup escaped on the server.

const find = (selector) => element.querySelector(selector);
const log = find(".log");
const isTouch = matchMedia("(hover: none)").matches;
let isAtEnd = true;
log.addEventListener("scroll", () => { isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120; }, { passive: true });
new ResizeObserver(() => { if (isAtEnd) log.scrollTop = log.scrollHeight; }).observe(log);

function patchLog(items, welcome) {
  const nearEnd = isAtEnd;
  const known = new Map([...log.querySelectorAll("article[data-key]")].map((article) => [article.dataset.key, article]));
  for (const [key, article] of known) if (!items.some((item) => item.key === key)) article.remove();
  let grew = false;
  for (const item of items) {
    let article = known.get(item.key);
    if (!article) {
      find(".sketch")?.remove();
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
  const words = (root) => [...root.querySelectorAll(".draft .words")];
  const frame = (root) => { const copy = root.cloneNode(true); words(copy).forEach((n) => n.replaceChildren()); return copy; };
  const [old, fresh] = [words(article), words(next.content)];
  const holder = document.createElement("div");
  holder.append(frame(next.content));
  // Compared with what was drawn, not with what stands there: that may be in another language by now.
  const isSame = article.drawn === holder.innerHTML;
  article.drawn = holder.innerHTML;
  if (isSame && old.length && old.length === fresh.length) {
    fresh.forEach((node, n) => { if (old[n].innerHTML !== node.innerHTML) old[n].innerHTML = node.innerHTML; });
    return;
  }
  const [had, opened] = [article.contains(document.activeElement), article.querySelector("details[open]")];
  article.replaceChildren(next.content);
  if (opened) article.querySelector("details")?.setAttribute("open", "");
  if (had) (article.querySelector(".is-given p") ?? find(".send")).focus();
}
// A question stands in the log as soon as it is sent; the server's own entry takes its place.
function sketch(prompt) {
  find(".sketch")?.remove();
  const article = document.createElement("article"), who = document.createElement("p"), words = document.createElement("p"), state = document.createElement("p");
  article.className = "sketch"; who.className = "who"; who.textContent = "You"; words.className = "words"; words.textContent = prompt;
  state.className = "pending"; state.textContent = "Sent";
  article.append(who, words, state);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  setTimeout(() => { state.textContent = "Waiting for a free place on this server"; }, 2500);
}

log.addEventListener("click", (event) => {
  const button = event.target.closest("button"), article = event.target.closest("article");
  if (!button || !article) return;
  const data = button.dataset;
  if (data.model) trigger("choose", { name: data.model });
  if (data.plan) trigger("plan", { name: data.plan });
  if (data.verdict) trigger("judge", { number: Number(article.dataset.key), verdict: data.verdict });
  if (data.suggest) send(data.suggest, data.prompt);
  if (data.box) showBox(button, article);
  const act = {
    copy: () => copyText(button, button.closest(".draft, .answer").querySelector(".words").innerText.trim(), "Copy"),
    record: () => copyText(button, recordOf(button), "Copy this record"),
    edit: () => editQuestion(article), boxes: showBoxes,
    retry: () => { run("retry", {}); find(".send").focus(); },
    undo: () => { trigger("undo", {}); if (!isTouch) find("textarea").focus(); },
  };
  act[data.act]?.();
});

log.addEventListener("toggle", (event) => { if (event.target.open) event.target.scrollIntoView({ block: "nearest" }); }, true);  // a record that was opened is seen

// --- boxes: the viewer draws them --------------------------------------------------------------------
function showBoxes() { document.dispatchEvent(new CustomEvent("cxr-boxes")); }
function showBox(button, article) {
  const [x_min, y_min, x_max, y_max] = button.dataset.box.split(",").map(Number), { label, film, index } = button.dataset;
  for (const other of log.querySelectorAll("[data-box]")) other.classList.toggle("is-lit", article.contains(other) && other.dataset.index === index);
  const detail = { index: Number(index), label, digest: film || undefined, box: { x_min, y_min, x_max, y_max } };
  document.dispatchEvent(new CustomEvent("cxr-show-box", { detail }));
}
document.addEventListener("cxr-boxes-shown", (event) => {
  for (const button of log.querySelectorAll("[data-act=boxes]")) button.textContent = event.detail.on ? "Hide on the film" : "Show on the film";
});

// --- copying -----------------------------------------------------------------------------------------
async function copyText(button, text, title) {
  try { await navigator.clipboard.writeText(text); } catch { copyBySelection(text); button.focus(); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = title; }, 1500);
}
function copyBySelection(text) {
  const place = document.createElement("textarea");
  place.value = text; place.className = "sr-only"; document.body.append(place); place.select();
  document.execCommand("copy"); place.remove();
}
function recordOf(button) {
  const cells = [...button.closest("details").querySelectorAll("dt")];
  return cells.map((name) => name.textContent + ": " + name.nextElementSibling.innerText.replace(/\n/g, ", ")).join("\n");
}

// --- editing a question where it stands --------------------------------------------------------------
function editQuestion(article) {
  const question = article.querySelector(".question"), words = question.querySelector(".words"), pencil = question.querySelector("[data-act=edit]");
  if (question.querySelector("form")) return;
  const form = document.createElement("form"), field = document.createElement("textarea");
  field.value = words.innerText; field.rows = 2; field.maxLength = 2000; field.setAttribute("aria-label", "Edit the question");
  const save = new DOMParser().parseFromString('<div class="acts"><button class="primary">Ask again</button><button type="button">Cancel</button></div>', "text/html").body.firstChild;
  form.append(field, save);
  const close = () => { form.remove(); words.hidden = false; pencil.hidden = false; };
  save.querySelector("[type=button]").onclick = () => { close(); pencil.focus(); };
  form.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); pencil.focus(); }
    if (event.key === "Enter" && event.target === field && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    const prompt = field.value.trim();
    close();
    if (prompt) { run("edit", { number: Number(article.dataset.key), prompt }); find(".send").focus(); }
  };
  words.hidden = true; pencil.hidden = true; words.after(form); field.focus();
}
