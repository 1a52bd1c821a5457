// Pixels of one film: fetched once, kept at full depth, turned into grey by a table (DICOM PS3.4 N.2).

async function fetchPixels(film) {
  const response = await fetch(new URL(film.url, document.baseURI), { credentials: "same-origin" });
  if (!response.ok) throw new Error("film " + response.status);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const count = film.width * film.height;
  if (film.planes === 1) return bytes.subarray(0, count);
  const pixels = new Uint16Array(count);
  for (let i = 0; i < count; i++) pixels[i] = bytes[i] | (bytes[count + i] << 8);
  return pixels;
}

// The film, its half, its quarter ...: each value is the mean of four. The level that is drawn is less than
// twice as fine as the screen, so a window drag costs what the screen costs, however large the film.
function makeLevels(film, pixels) {
  const levels = [{ width: film.width, height: film.height, data: pixels, factor: 1 }];
  while (Math.max(levels.at(-1).width, levels.at(-1).height) > 400) levels.push(halve(levels.at(-1)));
  return levels;
}
function halve({ width, height, data, factor }) {
  const w = Math.ceil(width / 2), h = Math.ceil(height / 2), out = new data.constructor(w * h);
  for (let y = 0, i = 0; y < h; y++) {
    const above = 2 * y * width, below = Math.min(2 * y + 1, height - 1) * width;
    for (let x = 0; x < w; x++, i++) {
      const a = 2 * x, b = Math.min(a + 1, width - 1);
      out[i] = (data[above + a] + data[above + b] + data[below + a] + data[below + b] + 2) >> 2;
    }
  }
  return { width: w, height: h, data: out, factor: 2 * factor };
}

// A region of a level as opaque greys, into the top left of `words`, which has `stride` pixels to a line.
function paintRegion(level, region, table, words, stride) {
  const { data, width } = level, columns = region.right - region.left;
  for (let y = region.top, line = 0; y < region.bottom; y++, line += stride) {
    let from = y * width + region.left;
    for (let to = line, end = line + columns; to < end; to++) words[to] = table[data[from++]];
  }
}

function modalityValue(film, index) {
  if (film.modality) return film.modality[index];
  return film.slope * (film.offset + index) + film.intercept;
}

// PS3.3 C.11.2.1.2 and C.11.2.1.3, output range [0, 1].
function voi(value, center, width, shape) {
  if (shape === "SIGMOID") return 1 / (1 + Math.exp(-4 * (value - center) / width));
  if (shape === "LINEAR_EXACT") return Math.min(1, Math.max(0, (value - center) / width + 0.5));
  if (width <= 1) return value > center - 0.5 ? 1 : 0;
  return Math.min(1, Math.max(0, (value - (center - 0.5)) / (width - 1) + 0.5));
}

// One grey per stored value, as opaque pixels. Polarity is turned once, last.
function greyTable(film, look) {
  const length = film.top - film.offset + 1;
  const table = new Uint32Array(length);
  const own = look.table ? Uint8Array.from(atob(look.table), (c) => c.charCodeAt(0)) : null;
  const turned = film.inverted !== look.invert;
  for (let i = 0; i < length; i++) {
    const shown = own ? own[i] : Math.round(255 * voi(modalityValue(film, i), look.center, look.width, look.shape));
    const grey = turned ? 255 - shown : shown;
    table[i] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
  }
  return table;
}
