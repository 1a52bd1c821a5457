// The viewbox: one film on a canvas, with the tools of a reading room. Runs inside a gr.HTML component,
// which hands over `element`, `props`, `trigger` and `watch`. Nothing here talks to the server but `fetch`
// of the film's pixels; boxes are drawn over the film, never into it.

const $ = (selector) => element.querySelector(selector);
const stage = $(".stage"), canvas = $("canvas"), context = canvas.getContext("2d");
const sheet = document.createElement("canvas"), sheetContext = sheet.getContext("2d");
let film = null, pixels = null, image = null, boxes = [], isFramePending = false, isGreyStale = true;
let look = null, place = null, ruler = null, showsBoxes = false, isMeasuring = false;
const pointers = new Map();

const freshPlace = () => ({ zoom: 0, x: 0, y: 0, quarter: 0, flip: false });
const presetLook = (p) => ({ center: p.center, width: p.width, shape: p.function, table: p.table, invert: look?.invert ?? false, name: p.name });

// --- geometry: film pixels -> stage pixels ----------------------------------------------------------
function stageSize() { return { width: stage.clientWidth, height: stage.clientHeight }; }
function fitZoom() {
  const { width, height } = stageSize(), turned = place.quarter % 2;
  return Math.min(width / (turned ? film.height : film.width), height / (turned ? film.width : film.height));
}
function zoom() { return place.zoom || fitZoom(); }
function toStage(x, y) {
  const angle = place.quarter * Math.PI / 2, scale = zoom(), { width, height } = stageSize();
  const dx = (x - film.width / 2) * (place.flip ? -1 : 1), dy = y - film.height / 2;
  return { x: width / 2 + place.x + scale * (dx * Math.cos(angle) - dy * Math.sin(angle)),
           y: height / 2 + place.y + scale * (dx * Math.sin(angle) + dy * Math.cos(angle)) };
}
function toFilm(x, y) {
  const angle = -place.quarter * Math.PI / 2, scale = zoom(), { width, height } = stageSize();
  const dx = (x - width / 2 - place.x) / scale, dy = (y - height / 2 - place.y) / scale;
  const rx = dx * Math.cos(angle) - dy * Math.sin(angle), ry = dx * Math.sin(angle) + dy * Math.cos(angle);
  return { x: film.width / 2 + rx * (place.flip ? -1 : 1), y: film.height / 2 + ry };
}
function zoomAt(x, y, factor) {
  const before = zoom(), after = Math.min(40, Math.max(fitZoom() / 4, before * factor)), k = after / before;
  const { width, height } = stageSize();
  place = { ...place, zoom: after, x: x - width / 2 - (x - width / 2 - place.x) * k, y: y - height / 2 - (y - height / 2 - place.y) * k };
  redraw();
}

// --- drawing ----------------------------------------------------------------------------------------
function redraw(greyChanged = false) {
  isGreyStale ||= greyChanged;
  if (!isFramePending) { isFramePending = true; requestAnimationFrame(draw); }
}
function draw() {
  isFramePending = false;
  const { width, height } = stageSize();
  if (!film || !pixels || !width) return;
  if (isGreyStale) paintSheet();
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.save();
  context.translate(width / 2 + place.x, height / 2 + place.y);
  context.rotate(place.quarter * Math.PI / 2);
  context.scale(zoom() * (place.flip ? -1 : 1), zoom());
  context.imageSmoothingEnabled = zoom() * ratio < 4;
  context.imageSmoothingQuality = "high";
  context.drawImage(sheet, -film.width / 2, -film.height / 2);
  context.restore();
  if (showsBoxes) boxes.forEach(drawBox);
  if (ruler) drawRuler();
  writeHud();
}
function paintSheet() {
  const table = greyTable(film, look), out = new Uint32Array(image.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = table[pixels[i]];
  sheetContext.putImageData(image, 0, 0);
  isGreyStale = false;
}
function drawBox(box) {
  const a = toStage(box.x_min * film.width, box.y_min * film.height), b = toStage(box.x_max * film.width, box.y_max * film.height);
  const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y), w = Math.abs(a.x - b.x), h = Math.abs(a.y - b.y);
  context.lineWidth = 1.5; context.strokeStyle = box.by === "model" ? "#5fb3e6" : "#e8b04b"; context.strokeRect(x, y, w, h);
  if (!box.label) return;
  context.font = "600 12px system-ui, sans-serif";
  const length = context.measureText(box.label).width + 10, top = y > 22 ? y - 20 : y + 2;
  const left = Math.max(0, Math.min(x, stageSize().width - length));
  context.fillStyle = "rgba(10, 12, 15, .82)"; context.fillRect(left, top, length, 18);
  context.fillStyle = box.by === "model" ? "#a9d6f2" : "#f0c878"; context.fillText(box.label, left + 5, top + 13);
}
function drawRuler() {
  const a = toStage(ruler.a.x, ruler.a.y), b = toStage(ruler.b.x, ruler.b.y);
  context.lineWidth = 1.5; context.strokeStyle = "#7fc4e8"; context.fillStyle = "#bfe2f4";
  context.beginPath(); context.moveTo(a.x, a.y); context.lineTo(b.x, b.y); context.stroke();
  for (const end of [a, b]) { context.beginPath(); context.arc(end.x, end.y, 3, 0, 7); context.fill(); }
  context.font = "600 12px system-ui, sans-serif";
  context.fillText(lengthInWords(), Math.max(a.x, b.x) + 8, b.y);
}
function lengthInWords() {
  const dx = ruler.b.x - ruler.a.x, dy = ruler.b.y - ruler.a.y;
  if (!film.spacing) return Math.hypot(dx, dy).toFixed(0) + " px, uncalibrated";
  return Math.hypot(dx * film.spacing[1], dy * film.spacing[0]).toFixed(1) + " mm at the detector";
}
function writeHud() {
  const level = look.table && !look.moved ? look.name : "C " + Math.round(look.center) + "  W " + Math.round(look.width);
  $(".hud-window").textContent = level + "   " + Math.round(zoom() * 100) + " %" + (look.invert ? "   inverted" : "") +
    (place.flip ? "   flipped" : "") + (place.quarter ? "   rotated " + place.quarter * 90 + "°" : "");
  writeMarks();
}
function writeMarks() {
  const order = ["right", "bottom", "left", "top"], marks = film.marks;
  order.forEach((edge, i) => {
    let source = order[(i - place.quarter + 4) % 4];
    if (place.flip && source === "left") source = "right"; else if (place.flip && source === "right") source = "left";
    $(".mark-" + edge).textContent = marks[source] || "";
  });
}
function valueAt(x, y) {
  const column = Math.floor(x), row = Math.floor(y);
  if (column < 0 || row < 0 || column >= film.width || row >= film.height) return null;
  return film.offset + pixels[row * film.width + column];
}
function writeValue(x, y) {
  const point = toFilm(x, y), value = pixels ? valueAt(point.x, point.y) : null;
  $(".hud-value").textContent = value === null ? "" : Math.floor(point.x) + ", " + Math.floor(point.y) + "   " + value;
}

// --- tools ------------------------------------------------------------------------------------------
function moveWindow(dx, dy) {
  const span = Math.max(1, Math.abs(modalityValue(film, film.top - film.offset) - modalityValue(film, 0)));
  const step = span / 700;
  look = { ...look, table: "", moved: true, shape: look.table ? "LINEAR" : look.shape,
           width: Math.max(1, look.width + dx * step), center: look.center + dy * step * (film.inverted !== look.invert ? -1 : 1) };
  redraw(true);
}
function usePreset(index) {
  const preset = film?.presets[index];
  if (!preset) return;
  look = presetLook(preset);
  $("[data-tool=preset]").value = String(index);
  redraw(true);
}
function press(tool, pressed) { $("[data-tool=" + tool + "]").setAttribute("aria-pressed", String(pressed)); }
const tools = {
  invert() { look = { ...look, invert: !look.invert }; press("invert", look.invert); redraw(true); },
  rotate() { place = { ...place, quarter: (place.quarter + 1) % 4 }; redraw(); },
  flip() { place = { ...place, flip: !place.flip, quarter: (4 - place.quarter) % 4 }; press("flip", place.flip); redraw(); },
  flipVertically() { place = { ...place, flip: !place.flip, quarter: (6 - place.quarter) % 4 }; press("flip", place.flip); redraw(); },
  fit() { place = { ...place, zoom: 0, x: 0, y: 0 }; redraw(); },
  actual() { place = { ...place, zoom: 1, x: 0, y: 0 }; redraw(); },
  measure() { isMeasuring = !isMeasuring; if (!isMeasuring) ruler = null; press("measure", isMeasuring); redraw(); },
  boxes() { showBoxes(!showsBoxes); },
  help() { const card = $(".help-card"); card.hidden = !card.hidden; press("help", !card.hidden); },
  reset() { look = null; place = freshPlace(); ruler = null; press("invert", false); press("flip", false); usePreset(0); },
};
function showBoxes(on) {
  showsBoxes = on; press("boxes", on); redraw();
  document.dispatchEvent(new CustomEvent("cxr-boxes-shown", { detail: { on } }));
}
const keys = { i: "invert", h: "flip", v: "flipVertically", r: "rotate", m: "measure", " ": "reset", "?": "help" };
stage.addEventListener("keydown", (event) => {
  if (!film || event.ctrlKey || event.metaKey || event.altKey) return;
  const { width, height } = stageSize(), tool = keys[event.key.toLowerCase()];
  if (tool) tools[tool]();
  else if (event.key === "+" || event.key === "=") zoomAt(width / 2, height / 2, 1.25);
  else if (event.key === "-") zoomAt(width / 2, height / 2, 0.8);
  else if (/^[1-5]$/.test(event.key)) usePreset(Number(event.key) - 1);
  else if (event.key === "Escape" && !$(".help-card").hidden) tools.help();
  else if (event.key.startsWith("Arrow")) moveWindow({ ArrowLeft: -8, ArrowRight: 8 }[event.key] || 0, { ArrowUp: -8, ArrowDown: 8 }[event.key] || 0);
  else return;
  event.preventDefault();
});
$(".toolbar").addEventListener("click", (event) => {
  const tool = event.target.closest("button")?.dataset.tool;
  if (tool && film) tools[tool]();
});
$("[data-tool=preset]").addEventListener("change", (event) => usePreset(Number(event.target.value)));
stage.addEventListener("dblclick", () => film && tools.reset());
stage.addEventListener("contextmenu", (event) => event.preventDefault());
stage.addEventListener("wheel", (event) => {
  if (!film) return;
  event.preventDefault();
  zoomAt(event.offsetX, event.offsetY, Math.exp(-event.deltaY * 0.0015));
}, { passive: false });

// --- pointers: one drags, two pinch -----------------------------------------------------------------
const local = (event) => { const r = stage.getBoundingClientRect(); return { x: event.clientX - r.left, y: event.clientY - r.top }; };
stage.addEventListener("pointerdown", (event) => {
  if (!film || event.target.closest(".help-card")) return;
  stage.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  const point = local(event);
  pointers.set(event.pointerId, { ...point, pans: event.button !== 0 || event.shiftKey });
  if (isMeasuring && event.button === 0) { const p = toFilm(point.x, point.y); ruler = { a: p, b: p }; }
});
stage.addEventListener("pointermove", (event) => {
  if (!film) return;
  const point = local(event), held = pointers.get(event.pointerId);
  writeValue(point.x, point.y);
  if (!held) return;
  if (pointers.size === 2) pinch(event.pointerId, held, point);
  else if (held.pans) { place = { ...place, zoom: zoom(), x: place.x + point.x - held.x, y: place.y + point.y - held.y }; redraw(); }
  else if (isMeasuring) { ruler = { ...ruler, b: toFilm(point.x, point.y) }; redraw(); }
  else moveWindow(point.x - held.x, point.y - held.y);
  pointers.set(event.pointerId, { ...held, ...point });
});
function pinch(id, before, after) {
  const other = [...pointers.entries()].find(([key]) => key !== id)[1];
  const ratio = Math.hypot(after.x - other.x, after.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
  place = { ...place, zoom: zoom(), x: place.x + (after.x - before.x) / 2, y: place.y + (after.y - before.y) / 2 };
  zoomAt((after.x + other.x) / 2, (after.y + other.y) / 2, ratio);
}
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
stage.addEventListener("pointerleave", () => { $(".hud-value").textContent = ""; });
new ResizeObserver(() => redraw()).observe(stage);

// --- what the server says ---------------------------------------------------------------------------
function note(text) { $(".stage-note").textContent = text; }
async function show(value) {
  document.documentElement.dataset.reading = "false";  // every upload ends here, also one that brought no film
  const next = value?.film ?? null;
  element.dataset.state = next ? "loading" : "empty";
  $(".viewer").hidden = !next;
  $(".empty-room").hidden = Boolean(next);
  const drawn = JSON.stringify(boxes);
  boxes = value?.boxes ?? [];
  const isAnswer = boxes.some((box) => box.by === "model") && JSON.stringify(boxes) !== drawn;
  const toggle = $("[data-tool=boxes]");
  toggle.hidden = !boxes.length;
  if (!next) { film = pixels = null; writeExamples(value?.examples ?? []); return; }
  if (film?.url === next.url) {
    element.dataset.state = "ready"; note("");
    if (isAnswer) showBoxes(true); else redraw();
    return;
  }
  showBoxes(boxes.some((box) => box.by === "model"));
  film = next; pixels = null; ruler = null; look = null; place = freshPlace();
  $("[data-tool=preset]").replaceChildren(...film.presets.map((p, i) => new Option((i < 5 ? i + 1 + "  " : "") + p.name, String(i))));
  $(".hud-facts").textContent = film.facts;
  $("#film-description").textContent = film.description;
  context.clearRect(0, 0, canvas.width, canvas.height);
  note("Loading the film");
  try {
    const loaded = await fetchPixels(next);
    if (film !== next) return;
    pixels = loaded; sheet.width = film.width; sheet.height = film.height;
    image = sheetContext.createImageData(film.width, film.height);
    note(""); tools.reset(); element.dataset.state = "ready";
  } catch { if (film === next) { note("The film could not be loaded. Check the connection, then add it again."); element.dataset.state = "failed"; } }
}
function writeExamples(examples) {
  $(".examples").replaceChildren(...examples.map((example) => {
    const button = document.createElement("button"), picture = document.createElement("img"), words = document.createElement("span");
    button.type = "button"; button.dataset.example = example.id; picture.src = example.picture; picture.alt = ""; picture.onerror = () => picture.remove(); words.textContent = example.title;
    button.append(picture, words);
    return button;
  }));
}
$(".empty-room").addEventListener("click", (event) => {
  const action = event.target.closest("[data-do]")?.dataset.do, example = event.target.closest("[data-example]")?.dataset.example;
  if (action === "choose") document.querySelector("#room > input[type=file]")?.click();
  else if (action === "demonstrate") trigger("demonstrate", {});
  else if (example) trigger("example", { id: example });
});
document.addEventListener("cxr-boxes", () => showBoxes(!showsBoxes));
watch("value", () => show(props.value));
show(props.value);

// For tests and for the other panels: where a point of the film is, and what lies under it.
element.viewbox = { toStage: (x, y) => toStage(x, y), valueAt, look: () => ({ ...look }), place: () => ({ ...place, zoom: zoom() }), length: () => (ruler ? lengthInWords() : "") };
