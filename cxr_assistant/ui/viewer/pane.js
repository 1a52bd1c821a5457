// One pane of the viewbox: a film on a canvas, how it is looked at, and what is drawn over it. Knows its own
// stage and nothing of the other pane, the toolbar or the server. Boxes are drawn over the film, never into it.

const freshPlace = () => ({ zoom: 0, x: 0, y: 0, quarter: 0, flip: false });
const presetLook = (p, invert) => ({ center: p.center, width: p.width, shape: p.function, table: p.table, invert, name: p.name });

class Pane {
  film = null; boxes = []; pixels = null; levels = null; picture = null;
  look = null; place = freshPlace(); rulers = [];
  showsBoxes = false; seesModel = false; highlight = null; plates = [];

  constructor(stage) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.sheet = document.createElement("canvas");
    this.sheetContext = this.sheet.getContext("2d");
    this.painted = "";
    this.isFramePending = false;
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(stage);
  }
  $(selector) { return this.stage.querySelector(selector); }
  get isReady() { return Boolean(this.film && this.pixels); }

  // --- geometry: film pixels -> stage pixels --------------------------------------------------------
  size() { return { width: this.stage.clientWidth, height: this.stage.clientHeight }; }
  fitZoom() {
    const { width, height } = this.size(), turned = this.place.quarter % 2, { film } = this;
    return Math.min(width / (turned ? film.height : film.width), height / (turned ? film.width : film.height));
  }
  zoom() { return this.place.zoom || this.fitZoom(); }
  toStage(x, y) {
    const { film, place } = this, angle = place.quarter * Math.PI / 2, scale = this.zoom(), { width, height } = this.size();
    const dx = (x - film.width / 2) * (place.flip ? -1 : 1), dy = y - film.height / 2;
    return { x: width / 2 + place.x + scale * (dx * Math.cos(angle) - dy * Math.sin(angle)),
             y: height / 2 + place.y + scale * (dx * Math.sin(angle) + dy * Math.cos(angle)) };
  }
  toFilm(x, y) {
    const { film, place } = this, angle = -place.quarter * Math.PI / 2, scale = this.zoom(), { width, height } = this.size();
    const dx = (x - width / 2 - place.x) / scale, dy = (y - height / 2 - place.y) / scale;
    const rx = dx * Math.cos(angle) - dy * Math.sin(angle), ry = dx * Math.sin(angle) + dy * Math.cos(angle);
    return { x: film.width / 2 + rx * (place.flip ? -1 : 1), y: film.height / 2 + ry };
  }
  zoomAt(x, y, factor) {
    const before = this.zoom(), after = Math.min(40, Math.max(this.fitZoom() / 4, before * factor)), k = after / before;
    const { width, height } = this.size(), { place } = this;
    this.place = { ...place, zoom: after, x: x - width / 2 - (x - width / 2 - place.x) * k, y: y - height / 2 - (y - height / 2 - place.y) * k };
    this.redraw();
  }
  panBy(dx, dy) {
    this.place = { ...this.place, zoom: this.zoom(), x: this.place.x + dx, y: this.place.y + dy };
    this.redraw();
  }
  // What is looked at, in words that mean the same on a film of another size.
  gaze() {
    const { width, height } = this.size(), middle = this.toFilm(width / 2, height / 2);
    return { fits: !this.place.zoom, zoom: this.zoom() / this.fitZoom(), x: middle.x / this.film.width, y: middle.y / this.film.height };
  }
  follow(gaze) {
    if (gaze.fits) this.place = { ...this.place, zoom: 0, x: 0, y: 0 };
    else {
      this.place = { ...this.place, zoom: gaze.zoom * this.fitZoom(), x: 0, y: 0 };
      const { width, height } = this.size(), point = this.toStage(gaze.x * this.film.width, gaze.y * this.film.height);
      this.place = { ...this.place, x: width / 2 - point.x, y: height / 2 - point.y };
    }
    this.redraw();
  }

  // --- drawing --------------------------------------------------------------------------------------
  redraw() {
    if (!this.isFramePending) { this.isFramePending = true; requestAnimationFrame(() => this.draw()); }
  }
  draw() {
    this.isFramePending = false;
    const { width, height } = this.size(), { canvas, context, film, place } = this;
    if (!this.isReady || !width) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.save();
    context.translate(width / 2 + place.x, height / 2 + place.y);
    context.rotate(place.quarter * Math.PI / 2);
    context.scale(this.zoom() * (place.flip ? -1 : 1), this.zoom());
    context.translate(-film.width / 2, -film.height / 2);
    if (this.seesModel) this.drawAsSeen(ratio); else this.drawFilm(ratio);
    context.restore();
    this.plates = [];
    if (this.showsBoxes) { this.boxes.forEach((box) => this.drawBox(box)); this.inOrder().forEach((box) => this.labelBox(box)); }
    this.rulers.forEach((ruler) => this.drawRuler(ruler));
    this.writeHud();
  }
  ink(name) { return getComputedStyle(this.stage).getPropertyValue(name).trim(); }
  // The part of the film that can be seen, painted at the level that the screen can show.
  drawFilm(ratio) {
    const { film, levels, context } = this, scale = this.zoom() * ratio;
    const level = levels[Math.max(0, Math.min(levels.length - 1, Math.floor(Math.log2(1 / scale))))];
    const region = this.visibleRegion(level), columns = region.right - region.left, rows = region.bottom - region.top;
    if (columns <= 0 || rows <= 0) return;
    this.paint(level, region, columns, rows);
    context.beginPath();
    context.rect(0, 0, film.width, film.height);
    context.clip();  // the last column of a half may reach beyond the film
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "low";  // bilinear is right between a level and its half
    const f = level.factor;
    context.drawImage(this.sheet, 0, 0, columns, rows, region.left * f, region.top * f, columns * f, rows * f);
  }
  visibleRegion(level) {
    const { width, height } = this.size(), f = level.factor;
    const a = this.toFilm(0, 0), b = this.toFilm(width, height);
    const clamp = (value, end) => Math.max(0, Math.min(end, value));
    return { left: clamp(Math.floor(Math.min(a.x, b.x) / f) - 1, level.width), right: clamp(Math.ceil(Math.max(a.x, b.x) / f) + 1, level.width),
             top: clamp(Math.floor(Math.min(a.y, b.y) / f) - 1, level.height), bottom: clamp(Math.ceil(Math.max(a.y, b.y) / f) + 1, level.height) };
  }
  paint(level, region, columns, rows) {
    const key = JSON.stringify([level.factor, region, this.look]);
    if (key === this.painted) return;
    if (!this.image || this.image.width < columns || this.image.height < rows) {
      this.sheet.width = columns; this.sheet.height = rows;
      this.image = this.sheetContext.createImageData(columns, rows);
      this.words = new Uint32Array(this.image.data.buffer);
    }
    paintRegion(level, region, greyTable(this.film, this.look), this.words, this.image.width);
    this.sheetContext.putImageData(this.image, 0, 0, 0, 0, columns, rows);
    this.painted = key;
  }
  // The very pixels that the model is given, where they lie on the film; what it never sees is dim and hatched.
  drawAsSeen(ratio) {
    const { film, context, picture } = this, [left, top, right, bottom] = film.model.frame, line = 1 / this.zoom();
    const x = left * film.width, y = top * film.height, width = (right - left) * film.width, height = (bottom - top) * film.height;
    context.save();
    context.globalAlpha = 0.32;
    this.drawFilm(ratio);
    context.restore();
    context.save();
    context.beginPath();
    context.rect(0, 0, film.width, film.height);
    context.rect(x, y, width, height);
    context.clip("evenodd");
    context.strokeStyle = this.ink("--overlay-hatch"); context.lineWidth = line; context.beginPath();
    const reach = film.width + film.height;
    for (let d = 0; d < reach; d += 11 * line) { context.moveTo(d, 0); context.lineTo(d - film.height, film.height); }
    context.stroke();
    context.restore();
    if (picture) {
      context.imageSmoothingEnabled = this.zoom() * ratio * width / picture.width < 2.5;
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, x, y, width, height);
    }
    context.strokeStyle = this.ink("--overlay-model"); context.lineWidth = 1.5 * line; context.setLineDash([6 * line, 4 * line]);
    context.strokeRect(x, y, width, height);
  }
  // On the stage, as it is seen now: turned, flipped and zoomed.
  frameOf(box) {
    const { film } = this;
    const a = this.toStage(box.x_min * film.width, box.y_min * film.height), b = this.toStage(box.x_max * film.width, box.y_max * film.height);
    return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), w: Math.abs(a.x - b.x), h: Math.abs(a.y - b.y) };
  }
  inkOf(box) { return this.ink(box.by === "truth" ? "--overlay-truth" : "--overlay-model"); }
  drawBox(box) {
    const { context } = this, { x, y, w, h } = this.frameOf(box), isLit = this.highlight === box, color = this.inkOf(box);
    context.save();
    if (this.highlight && !isLit) context.globalAlpha = 0.4;
    if (box.by === "truth") context.setLineDash([7, 4]);  // not told by its colour alone
    const stroke = (width, ink) => { context.lineWidth = width; context.strokeStyle = ink; context.strokeRect(x, y, w, h); };
    stroke(isLit ? 6 : 4, this.ink("--overlay-halo"));  // on a bright film, too
    stroke(isLit ? 3 : 2, color);
    if (isLit) { context.globalAlpha = 0.1; context.fillStyle = color; context.fillRect(x, y, w, h); }
    context.restore();
  }
  // The lit box is named first, so that its name stands where it belongs.
  inOrder() { return [...this.boxes].sort((a, b) => (b === this.highlight) - (a === this.highlight)); }
  labelBox(box) {
    if (!box.label) return;
    const { x, y, h } = this.frameOf(box);
    this.context.save();
    if (this.highlight && this.highlight !== box) this.context.globalAlpha = 0.4;
    this.drawLabel(this.nameOf(box), x, [y - 20, y + h + 2, y + 2, y + h - 20], this.inkOf(box));
    this.context.restore();
  }
  nameOf(box) { return (box.by === "truth" ? "Truth: " : "") + (box.label || "unnamed"); }
  // A plate with words at the first of `tops` where it covers no other and leaves no pane, else at the next free line.
  drawLabel(text, x, tops, color) {
    const { context } = this, { width, height } = this.size(), line = 20;
    context.font = "600 12px system-ui, sans-serif";
    const length = context.measureText(text).width + 10, left = Math.max(0, Math.min(x, width - length));
    const fits = (top) => top >= 2 && top + line <= height;
    const isFree = (top) => this.plates.every((p) => left + length < p.left || p.left + p.length < left || top + line <= p.top || p.top + line <= top);
    const below = Array.from({ length: 12 }, (_, i) => Math.max(2, tops[0]) + (i + 1) * line);
    const top = [...tops, ...below].find((y) => fits(y) && isFree(y)) ?? Math.max(2, Math.min(tops[0], height - line));
    this.plates.push({ left, top, length, text });
    context.fillStyle = this.ink("--overlay-plate"); context.fillRect(left, top, length, 18);
    context.fillStyle = color; context.fillText(text, left + 5, top + 13);
  }
  drawRuler(ruler) {
    const { context } = this, a = this.toStage(ruler.a.x, ruler.a.y), b = this.toStage(ruler.b.x, ruler.b.y), color = this.ink("--overlay-ruler");
    context.lineWidth = 1.5; context.strokeStyle = context.fillStyle = color;
    context.beginPath(); context.moveTo(a.x, a.y); context.lineTo(b.x, b.y); context.stroke();
    for (const end of [a, b]) { context.beginPath(); context.arc(end.x, end.y, 3, 0, 7); context.fill(); }
    this.drawLabel(this.lengthInWords(ruler), b.x + 6, [Math.max(a.y, b.y) + 10], color);  // under the line, never on it
  }
  lengthInWords(ruler) {
    const dx = ruler.b.x - ruler.a.x, dy = ruler.b.y - ruler.a.y, { spacing } = this.film;
    if (!spacing) return Math.hypot(dx, dy).toFixed(0) + " px, uncalibrated";
    return Math.hypot(dx * spacing[1], dy * spacing[0]).toFixed(1) + " mm at the detector";
  }

  // --- words over the film, and for who cannot see it ----------------------------------------------
  writeHud() {
    const { look, place, film } = this;
    const level = look.table && !look.moved ? look.name : "C " + Math.round(look.center) + "  W " + Math.round(look.width);
    const state = (look.invert ? "   inverted" : "") + (place.flip ? "   flipped" : "") + (place.quarter ? "   rotated " + place.quarter * 90 + "°" : "");
    this.$(".hud-window").textContent = (this.seesModel ? "" : level + "   ") + Math.round(this.zoom() * 100) + " %" + state;
    this.$(".hud-model").hidden = !this.seesModel;
    this.$(".hud-model b").textContent = "As " + film.model.title + " sees it";
    this.$(".hud-model span").textContent = film.model.words;
    this.writeMarks();
    clearTimeout(this.telling);
    this.telling = setTimeout(() => { this.$(".pane-words").textContent = this.inWords(); }, 250);
  }
  inWords() {
    const { film, look, place, boxes } = this, moved = look.moved ? "changed by hand" : look.name;
    const turned = (look.invert ? ", inverted" : "") + (place.flip ? ", flipped" : "") + (place.quarter ? ", rotated by " + place.quarter * 90 + " degrees" : "");
    const seen = this.seesModel ? " Shown as " + film.model.title + " sees it: " + film.model.words + "." : "";
    const drawn = this.showsBoxes ? boxes.map((box) => " Box: " + this.nameOf(box) + ", " + this.whereInWords(box) + ".").join("") : "";
    const lengths = this.rulers.map((ruler) => " Length: " + this.lengthInWords(ruler) + ".").join("");
    return film.title + ". " + film.description + " Window " + moved + ", zoom " + Math.round(this.zoom() * 100) + " percent" + turned + "." + seen + drawn + lengths;
  }
  whereInWords(box) {
    const third = (a, b, low, mid, high) => { const m = (a + b) / 2; return m < 0.36 ? low : m > 0.64 ? high : mid; };
    const down = third(box.y_min, box.y_max, "upper", "middle", "lower"), across = third(box.x_min, box.x_max, "left", "centre", "right");
    return down + " " + across + " of the film as stored";
  }
  writeMarks() {
    const order = ["right", "bottom", "left", "top"], { film, place } = this;
    order.forEach((edge, i) => {
      let source = order[(i - place.quarter + 4) % 4];
      if (place.flip && source === "left") source = "right"; else if (place.flip && source === "right") source = "left";
      this.$(".mark-" + edge).textContent = film.marks[source] || "";
    });
  }
  valueAt(x, y) {
    const { film } = this, column = Math.floor(x), row = Math.floor(y);
    if (column < 0 || row < 0 || column >= film.width || row >= film.height) return null;
    return film.offset + this.pixels[row * film.width + column];
  }
  writeValue(x, y) {
    const point = this.isReady ? this.toFilm(x, y) : null, value = point && this.valueAt(point.x, point.y);
    this.$(".hud-value").textContent = value === null ? "" : Math.floor(point.x) + ", " + Math.floor(point.y) + "   " + value;
  }

  // --- what can be done to a film -------------------------------------------------------------------
  moveWindow(dx, dy) {
    const { film, look } = this, span = Math.max(1, Math.abs(modalityValue(film, film.top - film.offset) - modalityValue(film, 0)));
    const step = span / 700;
    this.look = { ...look, table: "", moved: true, shape: look.table ? "LINEAR" : look.shape,
                  width: Math.max(1, look.width + dx * step), center: look.center + dy * step * (film.inverted !== look.invert ? -1 : 1) };
    this.redraw();
  }
  usePreset(index) {
    const preset = this.film?.presets[index];
    if (!preset) return false;
    this.look = presetLook(preset, this.look?.invert ?? false);
    this.redraw();
    return true;
  }
  invert() { this.look = { ...this.look, invert: !this.look.invert }; this.redraw(); }
  turn(change) { this.place = { ...this.place, ...change(this.place) }; this.redraw(); }
  reset() { this.look = null; this.place = freshPlace(); this.rulers = []; this.seesModel = false; this.usePreset(0); }

  // --- films come and go ----------------------------------------------------------------------------
  clear(words) {
    this.pixels = this.levels = this.picture = null; this.painted = "";
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.$(".stage-note").textContent = words;
  }
  describe() {
    this.stage.setAttribute("aria-label", this.film.title);
    this.$(".hud-title").textContent = this.film.title;
    this.$(".hud-facts").textContent = this.film.facts;
    this.$(".pane-words").textContent = this.film.title + ". " + this.film.description;
  }
  async seeAsModel(on) {
    this.seesModel = on;
    if (on && this.picture?.source !== this.film.model.url) await this.fetchPicture(this.film);
    this.redraw();
  }
  async fetchPicture(film) {
    const picture = new Image();
    picture.src = new URL(film.model.url, document.baseURI).href;
    this.picture = null;
    try { await picture.decode(); } catch { this.$(".stage-note").textContent = "What the model sees could not be loaded."; return; }
    picture.source = film.model.url;
    if (this.film?.model.url === film.model.url) this.picture = picture;
  }
  close() { this.observer.disconnect(); clearTimeout(this.telling); this.stage.remove(); }
}
