// Films come in by choosing, dropping or pasting, one, several or a folder; all end in Gradio's own file input,
// which checks them. Names never leave the browser: a file called after a patient is sent as "film", and what
// became of it is told by its place. Below the viewer hang the thumbnails, to be shown, moved and taken down.

const find = (selector) => element.querySelector(selector);
const inputs = () => document.querySelector("#room > input[type=file]");
const folderInput = find(".folder-input"), row = find(".films"), fatesSheet = find(".fates");
const MAX_FILES = 40, MAX_BYTES = 64 * 1024 * 1024;
const ARCHIVE = /\.(zip|7z|rar|tar|gz|tgz|bz2|xz|iso)$/i, SYSTEM = /^(\..*|thumbs\.db|desktop\.ini|autorun\.inf)$/i;
let batch = null;  // the files of the upload that is on its way, by the names under which they lie here

// --- what is sent, and what is refused before it is sent ------------------------------------------------
const nameless = (file) => new File([file], "film", { type: "application/octet-stream" });
function refusal(file, count) {
  if (ARCHIVE.test(file.name)) return "Archives are not opened: unpack it, then add the folder.";
  if (SYSTEM.test(file.name)) return "A file of the operating system, no film.";
  if (/^dicomdir$/i.test(file.name)) return "The index of a disc: it holds no picture itself.";
  if (!file.size) return "The file is empty.";
  if (file.size > MAX_BYTES) return "Too large: " + Math.round(file.size / 1048576) + " MB; up to 64 MB are read.";
  return count >= MAX_FILES ? "Not read: at most " + MAX_FILES + " files at once." : "";
}
function prepare(files) {
  const sent = new DataTransfer();
  batch = [...files].map((file) => {
    const reason = refusal(file, sent.items.length), name = file.webkitRelativePath || file.place || file.name;
    if (!reason) sent.items.add(nameless(file));
    return { name, outcome: reason ? "refused" : "sent", reason };
  });
  return sent.files;
}
function offer(files) {
  const input = inputs();
  if (!input || !files.length) return;
  const sent = prepare(files);
  if (!sent.length) { showFates([]); return; }
  input.files = sent;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
function reading(count) {
  document.documentElement.dataset.reading = String(count > 0);
  document.querySelector("#viewer").dataset.note = count > 1 ? "Reading " + count + " files" : "Reading the file";
}
document.addEventListener("change", (event) => {
  if (event.target !== inputs()) return;
  if ([...event.target.files].some((file) => file.name !== "film")) {
    event.target.files = prepare(event.target.files);
    if (!event.target.files.length) { event.stopImmediatePropagation(); showFates([]); return; }
  }
  reading(event.target.files.length);
}, true);
folderInput.addEventListener("change", () => { offer(inOrder([...folderInput.files])); folderInput.value = ""; });
document.addEventListener("cxr-choose", (event) => choose(event.detail.folder));
function choose(folder) { (folder ? folderInput : inputs())?.click(); }
const inOrder = (files) => files.sort((a, b) => (a.webkitRelativePath || a.place || a.name).localeCompare(b.webkitRelativePath || b.place || b.name, undefined, { numeric: true }));

document.addEventListener("dragover", (event) => {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  document.documentElement.dataset.dragging = "true";
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete document.documentElement.dataset.dragging; });
document.addEventListener("drop", async (event) => {
  delete document.documentElement.dataset.dragging;
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  event.stopPropagation();
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), files = [...event.dataTransfer.files];
  offer(entries.some((entry) => entry.isDirectory) ? inOrder((await Promise.all(entries.map(unfold))).flat()) : files);
}, true);
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); offer(event.clipboardData.files); } });
// The files of a dropped folder, folders in it included.
async function unfold(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    file.place = entry.fullPath.replace(/^\//, "");
    return [file];
  }
  const reader = entry.createReader(), found = [];
  for (let some = ["first"]; some.length && found.length < 10 * MAX_FILES;) {
    some = await new Promise((done, fail) => reader.readEntries(done, fail));
    found.push(...some);
  }
  return (await Promise.all(found.map(unfold))).flat();
}

// --- what became of each file -----------------------------------------------------------------------------
function showFates(told) {
  document.documentElement.dataset.reading = "false";  // a viewbox that stays empty is not drawn anew
  const answers = [...told];
  const fates = (batch ?? []).map((file) => (file.outcome === "sent" ? { name: file.name, ...(answers.shift() ?? { outcome: "refused", reason: "It did not arrive." }) } : file));
  batch = null;
  if (fates.length < 2 && told.length) return;  // one film is on the viewbox, or its refusal in the chat
  const added = fates.filter((fate) => fate.outcome === "added").length;
  find(".fates h3").textContent = added + " of " + fates.length + (fates.length === 1 ? " file" : " files") + " added";
  find(".fates ol").replaceChildren(...fates.map((fate) => {
    const item = document.createElement("li"), name = document.createElement("b"), reason = document.createElement("span");
    item.dataset.outcome = fate.outcome; name.textContent = fate.name; reason.textContent = fate.reason;
    item.append(name, reason);
    return item;
  }));
  fatesSheet.hidden = false;
  // On a phone it stands below the examples; where no film came, nothing else has changed.
  if (!added && matchMedia("(max-width: 900px)").matches) fatesSheet.scrollIntoView({ block: "nearest" });
  say(find(".fates h3").textContent);
}
const say = (words) => { find(".strip-words").textContent = words; };

// --- the thumbnails ---------------------------------------------------------------------------------------
function thumb(film) {
  const item = document.createElement("li"), show = document.createElement("button"), picture = document.createElement("img");
  const caption = document.createElement("span"), remove = document.createElement("button");
  item.className = "thumb"; item.draggable = true; item.dataset.digest = film.digest;
  show.type = remove.type = "button"; show.dataset.show = film.digest; remove.dataset.remove = film.digest; remove.className = "remove";
  show.setAttribute("aria-keyshortcuts", "Shift+ArrowLeft Shift+ArrowRight Delete");
  picture.src = film.url; picture.alt = ""; picture.draggable = false; caption.className = "caption"; remove.textContent = "×";
  show.append(picture, caption); item.append(show, remove);
  return item;
}
function writeFilms(films) {
  const known = new Map([...row.children].map((item) => [item.dataset.digest, item])), focused = document.activeElement;
  for (const [digest, item] of known) if (!films.some((film) => film.digest === digest)) item.remove();
  films.forEach((film, i) => {
    const item = known.get(film.digest) ?? thumb(film), show = item.firstChild;
    item.classList.toggle("is-shown", film.isShown); item.classList.toggle("is-hung", film.pane >= 0); item.classList.toggle("is-prior", Boolean(film.badge));
    show.setAttribute("aria-pressed", String(film.isShown));
    show.setAttribute("aria-label", "Show " + film.label[0].toLowerCase() + film.label.slice(1)); show.title = film.label + ". Drag to reorder, or onto a film.";
    item.querySelector(".caption").textContent = film.badge || film.caption;
    item.querySelector(".remove").setAttribute("aria-label", "Remove " + film.label);
    if (row.children[i] !== item) row.insertBefore(item, row.children[i] ?? null);
  });
  if (focused && row.contains(focused) && document.activeElement !== focused) focused.focus();
}
function writeFacts(lines) {
  find(".facts").replaceChildren(...lines.map((line, i) => { const place = document.createElement(i ? "p" : "b"); place.textContent = line; return place; }));
}
function writeActions(actions) {
  find(".hanging-actions").replaceChildren(...actions.map((action) => {
    const button = document.createElement("button");
    button.type = "button"; button.dataset[action.do] = action.digest; button.textContent = action.title;
    return button;
  }));
}
const order = () => [...row.children].map((item) => item.dataset.digest);
function move(digest, place) { trigger("move", { digest, place }); say("Film moved to place " + (place + 1) + " of " + row.children.length); }

row.addEventListener("keydown", (event) => {
  const item = event.target.closest(".thumb"), step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!item) return;
  const place = order().indexOf(item.dataset.digest);
  if (step && event.shiftKey) { if (row.children[place + step]) move(item.dataset.digest, place + step); }
  else if (step) row.children[place + step]?.firstChild.focus();
  else if (event.key === "Delete") trigger("remove", { digest: item.dataset.digest });
  else return;
  event.preventDefault();
});
row.addEventListener("dragstart", (event) => {
  const item = event.target.closest(".thumb");
  event.dataTransfer.setData("text/x-cxr-film", item.dataset.digest);
  event.dataTransfer.effectAllowed = "move";
  item.classList.add("is-dragged");
});
row.addEventListener("dragend", () => row.querySelectorAll(".thumb").forEach((item) => { item.classList.remove("is-dragged"); delete item.dataset.gap; }));
row.addEventListener("dragover", (event) => {
  const item = event.target.closest(".thumb");
  if (!item || !event.dataTransfer.types.includes("text/x-cxr-film")) return;
  event.preventDefault();
  row.querySelectorAll("[data-gap]").forEach((other) => delete other.dataset.gap);
  const box = item.getBoundingClientRect();
  item.dataset.gap = event.clientX > box.left + box.width / 2 ? "after" : "before";
});
row.addEventListener("drop", (event) => {
  const item = event.target.closest(".thumb"), digest = event.dataTransfer.getData("text/x-cxr-film");
  if (!item || !digest) return;
  event.preventDefault();
  const rest = order().filter((other) => other !== digest);
  const place = item.dataset.digest === digest ? order().indexOf(digest) : rest.indexOf(item.dataset.digest) + (item.dataset.gap === "after" ? 1 : 0);
  move(digest, place);
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "choose") choose(false);
  if (button.dataset.do === "folder") choose(true);
  if (button.dataset.do === "new") trigger("clear", {});
  if (button.dataset.do === "close-fates") fatesSheet.hidden = true;
  if (button.dataset.show) trigger("pick", { digest: button.dataset.show });
  if (button.dataset.prior) trigger("prior", { digest: button.dataset.prior });
  if (button.dataset.current) trigger("current", {});
  if (button.dataset.remove) trigger("remove", { digest: button.dataset.remove });
});

function show(value) {
  find(".study-strip").hidden = !value.films.length;
  writeFilms(value.films); writeFacts(value.facts); writeActions(value.actions);
  if (value.fates.length) showFates(value.fates);
  else if (!value.films.length && !batch) fatesSheet.hidden = true;
}
watch("value", () => show(props.value));
show(props.value);
