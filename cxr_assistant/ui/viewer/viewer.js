// The viewbox: one or two panes, the toolbar, keys and pointers. Runs inside a gr.HTML component, which hands
// over `element`, `props`, `trigger` and `watch`. Nothing here talks to the server but the fetch of a film's
// pixels and of the picture that a model sees; what hangs where is decided by the server's `Hanging`.

const $ = (selector) => element.querySelector(selector);
const panesPlace = $(".panes"), helpCard = $(".help-card");
const panes = [], pointers = new Map(), shelf = new Map();  // shelf: films seen lately, with how they were looked at
const SHELF = 4;
let active = 0, mode = "window", isLinked = false, wanted = null;
const current = () => panes[active];
const isHung = () => Boolean(current()?.isReady);
const announce = (words) => { $(".announcer").textContent = words; };

// --- toolbar -----------------------------------------------------------------------------------------
function press(tool, pressed) { $("[data-tool=" + tool + "]").setAttribute("aria-pressed", String(pressed)); }
function writeToolbar() {
  const pane = current();
  if (!pane?.film) return;
  press("invert", Boolean(pane.look?.invert)); press("flip", pane.place.flip); press("boxes", pane.showsBoxes); press("model", pane.seesModel);
  press("pan", mode === "pan"); press("measure", mode === "measure"); press("pair", panes.length === 2); press("link", isLinked);
  $("[data-tool=link]").hidden = panes.length < 2;
  $("[data-tool=boxes]").hidden = !panes.some((p) => p.boxes.length);
  element.dataset.mode = mode;
  const select = $("[data-tool=preset]"), names = pane.film.presets.map((p, i) => (i < 5 ? i + 1 + "  " : "") + p.name);
  if (JSON.stringify(names) !== select.dataset.names) {
    select.replaceChildren(...names.map((name, i) => new Option(name, String(i))));
    select.dataset.names = JSON.stringify(names);
  }
  const chosen = pane.film.presets.findIndex((p) => p.name === pane.look?.name);
  select.value = String(Math.max(0, chosen));
}
function writeExamples(examples) {
  $(".examples").replaceChildren(...examples.map((example) => {
    const button = document.createElement("button"), picture = document.createElement("img"), words = document.createElement("span");
    button.type = "button"; button.dataset.example = example.id; picture.src = example.picture; picture.alt = ""; picture.onerror = () => picture.remove(); words.textContent = example.title;
    button.append(picture, words);
    return button;
  }));
}

// --- tools: on the active pane, and on the other one where they are linked -----------------------------
const others = () => (isLinked ? panes.filter((pane) => pane !== current() && pane.isReady) : []);
function windowed(act) { [current(), ...others()].forEach(act); writeToolbar(); }
function moved(act) { act(current()); const gaze = current().gaze(); others().forEach((pane) => pane.follow(gaze)); }
function usePreset(index) {
  const name = current()?.film?.presets[index]?.name;
  if (!isHung() || !current().usePreset(index)) return;
  others().forEach((pane) => pane.usePreset(pane.film.presets.findIndex((p) => p.name === name)));
  announce("Window " + name); writeToolbar();
}
function setMode(next) { mode = mode === next ? "window" : next; announce(mode === "window" ? "Drag to set the window" : "Drag to " + mode); writeToolbar(); }
const tools = {
  invert() { const on = !current().look.invert; windowed((pane) => { if (pane.look.invert !== on) pane.invert(); }); announce(on ? "Inverted" : "Not inverted"); },
  rotate() { current().turn((place) => ({ quarter: (place.quarter + 1) % 4 })); announce("Rotated by 90 degrees"); },
  flip() { current().turn((place) => ({ flip: !place.flip, quarter: (4 - place.quarter) % 4 })); announce(current().place.flip ? "Flipped" : "Not flipped"); },
  flipVertically() { current().turn((place) => ({ flip: !place.flip, quarter: (6 - place.quarter) % 4 })); announce("Flipped vertically"); },
  fit() { moved((pane) => pane.turn(() => ({ zoom: 0, x: 0, y: 0 }))); announce("Fits the pane"); },
  actual() { moved((pane) => pane.turn(() => ({ zoom: 1, x: 0, y: 0 }))); announce("One film pixel to one screen pixel"); },
  measure() { setMode("measure"); },
  pan() { setMode("pan"); },
  model() {
    const on = !current().seesModel, { model } = current().film;
    current().seeAsModel(on);
    announce(on ? "As " + model.title + " sees it: " + model.words : "As people see it");
  },
  boxes() { showBoxes(!current().showsBoxes); },
  pair() { trigger("pair", {}); },
  link() { isLinked = !isLinked; if (isLinked) moved(() => {}); announce(isLinked ? "Window and zoom are linked" : "Window and zoom are separate"); },
  help() { helpCard.hidden = !helpCard.hidden; $("[data-tool=help]").setAttribute("aria-expanded", String(!helpCard.hidden)); },
  reset() { windowed((pane) => pane.reset()); mode = "window"; announce("Reset"); },
};
function use(tool) { tools[tool](); writeToolbar(); }
function showBoxes(on, lit = null) {
  for (const pane of panes) { pane.showsBoxes = on; pane.highlight = pane.boxes.includes(lit) ? lit : null; pane.redraw(); }
  writeToolbar();
  document.dispatchEvent(new CustomEvent("cxr-boxes-shown", { detail: { on } }));
}
// A phrase of an answer was chosen. `detail`: the box's `index` in the newest answer, or, for any answer, the
// `box` itself with its `label`; `digest` names the film, by default the one that has the box, else the active.
function showBox(detail) {
  const hung = panes.find((pane) => pane.film?.id === detail.digest);
  if (detail.digest && !hung) { wanted = detail; trigger("pick", { digest: detail.digest }); return; }
  const pane = hung ?? panes.find((p) => p.boxes.some((box) => box.index === detail.index)) ?? current();
  if (!pane?.film) return;
  let box = pane.boxes.find((known) => (detail.box ? sameBox(known, detail.box) : known.by === "model" && known.index === detail.index));
  if (!box && detail.box) { box = { ...detail.box, label: detail.label ?? "", by: "model" }; pane.boxes = [...pane.boxes, box]; }
  if (!box) return;
  reveal(pane, box);
  showBoxes(true, box);
  announce((box.label || "Box") + ", " + pane.whereInWords(box));
}
const sameBox = (a, b) => ["x_min", "y_min", "x_max", "y_max"].every((edge) => Math.abs(a[edge] - b[edge]) < 1e-6);
function reveal(pane, box) {
  const { width, height } = pane.size(), middle = pane.toStage((box.x_min + box.x_max) / 2 * pane.film.width, (box.y_min + box.y_max) / 2 * pane.film.height);
  if (middle.x < 0 || middle.y < 0 || middle.x > width || middle.y > height) pane.turn(() => ({ zoom: 0, x: 0, y: 0 }));
  const seen = pane.stage.getBoundingClientRect();
  if (seen.bottom < 80 || seen.top > innerHeight - 80) pane.stage.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// --- keys ----------------------------------------------------------------------------------------------
const keys = { i: "invert", h: "flip", v: "flipVertically", r: "rotate", m: "measure", p: "pan", s: "model", b: "boxes", " ": "reset", "?": "help" };
function keyed(event) {
  if (!isHung() || event.ctrlKey || event.metaKey || event.altKey) return;
  const { width, height } = current().size(), tool = keys[event.key.toLowerCase()];
  if (tool === "boxes" && $("[data-tool=boxes]").hidden) return;
  if (tool) use(tool);
  else if (event.key === "+" || event.key === "=") moved((pane) => pane.zoomAt(width / 2, height / 2, 1.25));
  else if (event.key === "-") moved((pane) => pane.zoomAt(width / 2, height / 2, 0.8));
  else if (/^[1-5]$/.test(event.key)) usePreset(Number(event.key) - 1);
  else if (event.key === "Backspace") { current().rulers = current().rulers.slice(0, -1); current().redraw(); }
  else if (event.key === "Escape" && !helpCard.hidden) tools.help();
  else if (event.key.startsWith("Arrow")) windowed((pane) => pane.moveWindow({ ArrowLeft: -8, ArrowRight: 8 }[event.key] || 0, { ArrowUp: -8, ArrowDown: 8 }[event.key] || 0));
  else return;
  event.preventDefault();
}
$(".toolbar").addEventListener("click", (event) => {
  const tool = event.target.closest("button")?.dataset.tool;
  if (tool && isHung()) use(tool);
});
$(".toolbar").addEventListener("keydown", (event) => { if (event.key === "Escape" && !helpCard.hidden) tools.help(); });
$("[data-tool=preset]").addEventListener("change", (event) => usePreset(Number(event.target.value)));

// --- pointers: one drags, two pinch ----------------------------------------------------------------------
function local(pane, event) { const r = pane.stage.getBoundingClientRect(); return { x: event.clientX - r.left, y: event.clientY - r.top }; }
function pressed(pane, event) {
  activate(panes.indexOf(pane));
  if (!pane.isReady) return;
  helpCard.hidden = true; $("[data-tool=help]").setAttribute("aria-expanded", "false");
  pane.stage.focus({ preventScroll: true });
  pane.stage.setPointerCapture(event.pointerId);
  const point = local(pane, event);
  pointers.set(event.pointerId, { ...point, pane, pans: event.button !== 0 || event.shiftKey || mode === "pan" || pane.seesModel });
  if (pointers.size === 2) pane.rulers = pane.rulers.filter((ruler) => ruler !== pane.drawing);
  pane.drawing = null;
  if (mode === "measure" && event.button === 0 && !event.shiftKey) {
    const p = pane.toFilm(point.x, point.y);
    pane.drawing = { a: p, b: p }; pane.rulers = [...pane.rulers, pane.drawing];
  }
}
function dragged(pane, event) {
  if (!pane.isReady) return;
  const point = local(pane, event), held = pointers.get(event.pointerId);
  pane.writeValue(point.x, point.y);
  if (!held || held.pane !== pane) return;
  const dx = point.x - held.x, dy = point.y - held.y;
  if (pointers.size === 2) pinch(pane, event.pointerId, held, point);
  else if (pane.drawing) { pane.drawing.b = pane.toFilm(point.x, point.y); pane.redraw(); }
  else if (held.pans) moved((p) => p.panBy(dx, dy));
  else windowed((p) => p.moveWindow(dx, dy));
  pointers.set(event.pointerId, { ...held, ...point });
}
function pinch(pane, id, before, after) {
  const other = [...pointers.entries()].find(([key]) => key !== id)[1];
  const ratio = Math.hypot(after.x - other.x, after.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
  moved((p) => { p.panBy((after.x - before.x) / 2, (after.y - before.y) / 2); p.zoomAt((after.x + other.x) / 2, (after.y + other.y) / 2, ratio); });
}
function released(pane, event) {
  pointers.delete(event.pointerId);
  const done = pane.drawing;
  pane.drawing = null;
  if (done && Math.hypot(done.a.x - done.b.x, done.a.y - done.b.y) * pane.zoom() < 3) pane.rulers = pane.rulers.filter((ruler) => ruler !== done);
  else if (done) announce(pane.lengthInWords(done));
  pane.redraw();
}
function listen(pane) {
  const { stage } = pane;
  stage.addEventListener("keydown", keyed);
  stage.addEventListener("focus", () => activate(panes.indexOf(pane)));
  stage.addEventListener("dblclick", () => isHung() && use("reset"));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    if (!pane.isReady) return;
    event.preventDefault();
    activate(panes.indexOf(pane));
    const point = local(pane, event);
    moved(() => pane.zoomAt(point.x, point.y, Math.exp(-event.deltaY * 0.0015)));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => pressed(pane, event));
  stage.addEventListener("pointermove", (event) => dragged(pane, event));
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => released(pane, event));
  stage.addEventListener("pointerleave", () => { pane.$(".hud-value").textContent = ""; });
  listenForThumbnails(pane);
}
function activate(index) {
  if (index < 0 || index === active) return;
  active = index;
  markActive();
  trigger("activate", { pane: index });
}
function markActive() { panes.forEach((pane, i) => pane.stage.classList.toggle("is-active", panes.length > 1 && i === active)); writeToolbar(); }
// A thumbnail that is dropped on a film takes its place; on the right third of a single film it hangs beside it.
function listenForThumbnails(pane) {
  const paneFor = (event) => (panes.length === 1 && local(pane, event).x > pane.size().width * 0.67 ? 1 : panes.indexOf(pane));
  pane.stage.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("text/x-cxr-film")) return;
    event.preventDefault();
    pane.stage.dataset.drop = paneFor(event) > panes.indexOf(pane) ? "beside" : "here";
  });
  pane.stage.addEventListener("dragleave", () => delete pane.stage.dataset.drop);
  pane.stage.addEventListener("drop", (event) => {
    delete pane.stage.dataset.drop;
    const digest = event.dataTransfer.getData("text/x-cxr-film");
    if (digest) { event.preventDefault(); trigger("hang", { digest, pane: paneFor(event) }); }
  });
}

// --- what the server says ----------------------------------------------------------------------------------
function setPanes(count) {
  while (panes.length > count) panes.pop().close();
  while (panes.length < count) {
    const stage = $(".pane-template").content.firstElementChild.cloneNode(true), words = stage.querySelector(".pane-words");
    words.id = "film-description-" + panes.length;
    stage.setAttribute("aria-describedby", words.id);
    panesPlace.append(stage);
    panes.push(new Pane(stage));
    listen(panes.at(-1));
  }
  panesPlace.dataset.count = String(count);
}
function remember(pane) {
  if (!pane.isReady) return;
  shelf.delete(pane.film.url);
  shelf.set(pane.film.url, { pixels: pane.pixels, levels: pane.levels, look: pane.look, place: pane.place, rulers: pane.rulers });
  if (shelf.size > SHELF) shelf.delete(shelf.keys().next().value);
}
async function hang(pane, { film, boxes }) {
  const drawn = JSON.stringify(pane.boxes), isSame = pane.film?.url === film.url && pane.isReady;
  const isAnswer = boxes.some((box) => box.by === "model") && JSON.stringify(boxes) !== drawn;
  const otherModel = pane.film?.model.url !== film.model.url;
  if (!isSame) remember(pane);
  pane.boxes = boxes; pane.highlight = null; pane.film = film;
  pane.describe();
  if (isAnswer) pane.showsBoxes = true; else if (!boxes.length) pane.showsBoxes = false;
  if (isSame) { if (pane.seesModel && otherModel) await pane.seeAsModel(true); pane.redraw(); return; }
  pane.seesModel = false;
  pane.clear("Loading the film");
  const kept = shelf.get(film.url) ?? (await load(film));
  if (pane.film !== film) return;
  Object.assign(pane, kept);
  if (!kept.look) pane.reset();
  pane.$(".stage-note").textContent = "";
  pane.redraw();
}
async function load(film) {
  const pixels = await fetchPixels(film);
  return { pixels, levels: makeLevels(film, pixels), look: null, place: freshPlace(), rulers: [] };
}
function drop() { setPanes(0); shelf.clear(); pointers.clear(); isLinked = false; mode = "window"; helpCard.hidden = true; }
async function show(value) {
  document.documentElement.dataset.reading = "false";  // every upload ends here, also one that brought no film
  const next = value?.panes ?? [];
  element.dataset.state = next.length ? "loading" : "empty";
  $(".viewer").hidden = !next.length;
  $(".empty-room").hidden = Boolean(next.length);
  if (!next.length) { drop(); writeExamples(value?.examples ?? []); return; }
  panes.slice(next.length).forEach(remember);
  // A film that stays on the viewbox keeps its pane, so that nothing is fetched or painted anew.
  setPanes(next.length);
  active = Math.min(value.active, next.length - 1);
  $(".tool-pair").hidden = !value.canPair;
  try {
    await Promise.all(next.map((hung, i) => hang(panes[i], hung)));
    if (next.every((hung, i) => panes[i]?.film === hung.film)) element.dataset.state = "ready";
  } catch {
    panes.filter((pane) => !pane.isReady).forEach((pane) => pane.clear("The film could not be loaded. Check the connection, then add it again."));
    element.dataset.state = "failed";
  }
  markActive();
  document.dispatchEvent(new CustomEvent("cxr-boxes-shown", { detail: { on: Boolean(current()?.showsBoxes) } }));
  if (wanted && panes.some((pane) => pane.film?.id === wanted.digest)) { const detail = wanted; wanted = null; showBox(detail); }
}
$(".empty-room").addEventListener("click", (event) => {
  const action = event.target.closest("[data-do]")?.dataset.do, example = event.target.closest("[data-example]")?.dataset.example;
  if (action === "choose" || action === "folder") document.dispatchEvent(new CustomEvent("cxr-choose", { detail: { folder: action === "folder" } }));
  else if (action === "demonstrate") trigger("demonstrate", {});
  else if (example) trigger("example", { id: example });
});
document.addEventListener("cxr-boxes", () => current() && showBoxes(!current().showsBoxes));
document.addEventListener("cxr-show-box", (event) => showBox(event.detail ?? {}));
watch("value", () => show(props.value));
show(props.value);

// For tests and for the other panels: where a point of the film is, and what lies under it.
element.viewbox = {
  pane: (index) => panes[index ?? active],
  toStage: (x, y) => current().toStage(x, y), valueAt: (x, y) => current().valueAt(x, y),
  look: () => ({ ...current().look }), place: () => ({ ...current().place, zoom: current().zoom() }),
  length: () => { const ruler = current().rulers.at(-1); return ruler ? current().lengthInWords(ruler) : ""; },
};
