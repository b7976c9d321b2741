// The script of `mgcda report`: curves that answer the pointer, and thresholds applied to score maps on a canvas.
// It reads the numbers that reports/html.py puts into the element #facts, and writes text only as text.
"use strict";

/**
 * @typedef {{label: string, low: number, high: number, start: number, end: number,
 *            log: boolean, percent: boolean}} Axis
 * @typedef {{label: string, colour: number, x: (number|null)[], y: (number|null)[], smooth?: (number|null)[],
 *            extra?: Record<string, (number|null)[]>}} Series
 * @typedef {{x: Axis, y: Axis, top: number, bottom: number, series: Series[]}} ChartFacts
 * @typedef {{levels: number[], best: number, recall?: number[], precision?: number[], fpr?: number[]}} Scale
 * @typedef {{curves: string, scales: Record<string, Scale>,
 *            frames: {key: string, maps: Record<string, string>}[]}} GalleryFacts
 */

/** @type {{charts: Record<string, ChartFacts>, galleries: GalleryFacts[]}} */
const facts = JSON.parse(document.getElementById("facts").textContent);

/** All elements that a selector finds. @param {string} selector @param {ParentNode} root @returns {any[]} */
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

/** A number for a reader: per cent with two decimals, else four significant digits. @returns {string} */
function shown(value, percent = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (percent) return (100 * value).toFixed(2);
  const text = Math.abs(value) >= 1e4 && Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

// ------------------------------------------------------------------------------------------------------------- curves

/** Where a value lies on an axis, in units of the picture. @param {Axis} axis @returns {number} */
function position(axis, value) {
  const scaled = axis.log
    ? Math.log(Math.max(value, axis.low) / axis.low) / Math.log(axis.high / axis.low)
    : (value - axis.low) / (axis.high - axis.low);
  return axis.start + Math.min(Math.max(scaled, 0), 1) * (axis.end - axis.start);
}

/** The value at a position: the inverse of `position`. @param {Axis} axis @returns {number} */
function valueAt(axis, at) {
  const share = (at - axis.start) / (axis.end - axis.start);
  return axis.log ? axis.low * (axis.high / axis.low) ** share : axis.low + share * (axis.high - axis.low);
}

/** Index of the point of a series that is nearest along the axis; -1 if it has none. @param {Series} series */
function nearest(series, axis, at) {
  let best = -1;
  let distance = Infinity;
  series.x.forEach((x, index) => {
    if (x === null || series.y[index] === null) return;
    const away = Math.abs(position(axis, x) - at);
    if (away < distance) [best, distance] = [index, away];
  });
  return best;
}

/** Make a chart answer pointer and arrow keys, and its legend switch lines. @param {HTMLElement} figure */
function liven(figure) {
  const chart = facts.charts[figure.dataset.chart];
  const svg = figure.querySelector("svg");
  /** @type {HTMLElement} */
  const tip = figure.querySelector(".tip");
  const crosshair = figure.querySelector(".crosshair");
  const groups = all("g.series", figure);
  const buttons = all(".legend button", figure);
  let focus = null; // position of the crosshair, in units of the picture

  function show(at) {
    focus = Math.min(Math.max(at, chart.x.start), chart.x.end);
    const smooth = figure.closest(".is-smooth") !== null;
    const rows = [];
    let anchor = null;
    chart.series.forEach((series, index) => {
      if (groups[index].classList.contains("off")) return;
      const point = nearest(series, chart.x, focus);
      if (point < 0) return;
      if (anchor === null) anchor = { x: series.x[point], point, series };
      const value = smooth && series.smooth ? series.smooth[point] : series.y[point];
      const dot = groups[index].querySelector(".cursor");
      dot.setAttribute("cx", position(chart.x, series.x[point]).toFixed(1));
      dot.setAttribute("cy", position(chart.y, value).toFixed(1));
      dot.setAttribute("visibility", "visible");
      let text = `${series.label}: ${shown(value, chart.y.percent)}${chart.y.percent ? " %" : ""}`;
      for (const [name, values] of Object.entries(series.extra ?? {})) text += `, ${name} ${shown(values[point])}`;
      rows.push({ style: buttons[index].className, text });
    });
    if (anchor === null) return hide();
    const x = position(chart.x, valueAt(chart.x, focus));
    crosshair.setAttribute("d", `M${x.toFixed(1)} ${chart.top}V${chart.bottom}`);
    crosshair.setAttribute("visibility", "visible");
    const here = chart.x.percent ? valueAt(chart.x, focus) : anchor.x;
    tip.replaceChildren(line(null, `${chart.x.label} ${shown(here, chart.x.percent)}${chart.x.percent ? " %" : ""}`));
    rows.forEach((row) => tip.append(line(row.style, row.text)));
    tip.hidden = false;
    // Beside the crosshair, on the side that has room.
    const width = svg.clientWidth;
    const left = (x / svg.viewBox.baseVal.width) * width;
    const room = tip.offsetWidth + 12;
    tip.style.left = `${Math.max(0, left + room > width ? left - room : left + 12)}px`;
    tip.style.top = `${(chart.top / svg.viewBox.baseVal.height) * svg.clientHeight}px`;
  }

  function line(style, text) {
    const row = document.createElement("div");
    if (style !== null) {
      const square = document.createElement("i");
      square.className = style;
      row.append(square);
    }
    const words = document.createElement("span");
    words.textContent = text;
    row.append(words);
    return row;
  }

  function hide() {
    focus = null;
    tip.hidden = true;
    crosshair.setAttribute("visibility", "hidden");
    groups.forEach((group) => group.querySelector(".cursor").setAttribute("visibility", "hidden"));
    followSliders();
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
  });
  svg.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.target !== figure || (step === undefined && event.key !== "Escape")) return;
    event.preventDefault();
    if (step === undefined) return hide();
    const from = focus ?? (step > 0 ? chart.x.start : chart.x.end);
    show(from + (step * (chart.x.end - chart.x.start)) / 100);
  });
  buttons.forEach((button, index) => {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      groups[index].classList.toggle("off", !on);
    });
  });
}

// ------------------------------------------------------------------------------------------------------------- frames

/** Colours of marks, opaque: found, false alarm, missed. */
const marks = Object.fromEntries(
  ["hit", "alarm", "missed"].map((name) => {
    const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
    return [name, text.match(/\d+/g).map(Number)];
  }),
);

/** From dark to light with rising brightness (after matplotlib's inferno): anchors of the colours of scores. */
const ramp = [
  [0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
];

function rampColour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[low].map((part, channel) => part + (at - low) * (ramp[low + 1][channel] - part));
}

/** The bytes of a picture. @returns {ImageData} */
function pixelsOf(image, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

const ANOMALY = 1;
const VOID = 2;

/** One run's picture of the chosen frame, its slider and its numbers. */
class Pane {
  /** @param {HTMLElement} figure @param {Scale} scale */
  constructor(figure, scale, gallery) {
    this.run = figure.dataset.run;
    this.scale = scale;
    this.gallery = gallery;
    this.canvas = figure.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.slider = figure.querySelector("input");
    this.output = figure.querySelector("output");
    this.key = figure.querySelector(".key");
    this.whole = all(".whole td", figure);
    this.frame = all(".this td", figure);
    this.mode = "marks";
    this.wanted = 0;
    this.slider.addEventListener("input", () => this.draw());
    figure.querySelector(".best").addEventListener("click", () => {
      this.slider.value = String(scale.best);
      this.draw();
    });
  }

  /** Show a frame. @param {string | undefined} map */
  async load(photo, map, key) {
    const ticket = ++this.wanted;
    this.key.textContent = map === undefined ? "no picture of this frame was kept" : key;
    const levels = new Image();
    levels.src = map ?? photo.src;
    await Promise.all([photo.decode(), levels.decode()]);
    if (ticket !== this.wanted) return; // another frame was chosen meanwhile
    const [width, height] = [levels.naturalWidth, levels.naturalHeight];
    [this.canvas.width, this.canvas.height] = [width, height];
    this.photo = pixelsOf(photo, width, height);
    this.levels = map === undefined ? null : pixelsOf(levels, width, height).data;
    this.draw();
  }

  draw() {
    const level = Number(this.slider.value);
    const { levels, recall, precision, fpr } = this.scale;
    this.output.textContent = shown(levels[level]);
    const [p, r] = [precision?.[level], recall?.[level]];
    const whole = [p, r, p + r > 0 ? (2 * p * r) / (p + r) : undefined, fpr?.[level]];
    this.whole.forEach((cell, index) => (cell.textContent = shown(whole[index], true)));
    const said = r === undefined ? "" : `, recall ${shown(r, true)} %, precision ${shown(p, true)} %`;
    this.slider.setAttribute("aria-valuetext", `score ${shown(levels[level])}${said}`);
    if (this.photo === undefined) return;
    this.paint(level);
    followSliders();
  }

  paint(level) {
    const { width, height } = this.canvas;
    const picture = new ImageData(new Uint8ClampedArray(this.photo.data), width, height);
    const counts = { hit: 0, alarm: 0, missed: 0, calm: 0 };
    for (let at = 0; this.levels !== null && at < this.levels.length; at += 4) {
      const marked = this.levels[at] >= level;
      const truth = this.levels[at + 1];
      const kind = truth === VOID ? "void" : (marked ? ["alarm", "hit"] : ["calm", "missed"])[truth];
      if (kind !== "void") counts[kind] += 1;
      const [colour, strength] = this.colourOf(kind, truth, this.levels[at]);
      for (let channel = 0; channel < 3; channel += 1) {
        picture.data[at + channel] += strength * (colour[channel] - picture.data[at + channel]);
      }
    }
    this.context.putImageData(picture, 0, 0);
    const { hit, alarm, missed, calm } = counts;
    const share = (part, total) => (total > 0 ? part / total : undefined);
    const anomalies = hit + missed;
    const numbers = [
      anomalies > 0 ? share(hit, hit + alarm) : undefined, share(hit, anomalies),
      anomalies > 0 ? share(2 * hit, 2 * hit + alarm + missed) : undefined,
      share(alarm, alarm + calm),
    ];
    this.frame.forEach((cell, index) => (cell.textContent = this.levels === null ? "–" : shown(numbers[index], true)));
  }

  /** What is painted over a pixel, and how strongly. @returns {[number[], number]} */
  colourOf(kind, truth, value) {
    const grey = [127, 127, 127];
    if (this.mode === "photo") return [grey, 0];
    if (this.mode === "score") return [rampColour(value / (this.scale.levels.length - 1)), 0.9];
    if (kind === "void") return [grey, 0.6];
    if (this.mode === "truth") return truth === ANOMALY ? [marks.alarm, 0.7] : [grey, 0];
    return kind === "calm" ? [grey, 0] : [marks[kind], kind === "missed" ? 0.75 : 0.65];
  }
}

/** Put hollow dots on PR and ROC curves where the sliders stand. */
function followSliders() {
  for (const pane of panes) {
    const level = Number(pane.slider.value);
    const { recall, precision, fpr } = pane.scale;
    if (recall === undefined) continue;
    const roc = [fpr[level], recall[level]];
    const points = { pr: [recall[level], precision[level]], roc, roclog: roc };
    for (const [kind, [x, y]] of Object.entries(points)) {
      const figure = document.getElementById(`${pane.gallery.curves}-${kind}`);
      const chart = facts.charts[figure?.dataset.chart];
      const series = chart?.series.findIndex((each) => each.colour === Number(pane.run)) ?? -1;
      if (series < 0) continue;
      const dot = all("g.series", figure)[series].querySelector(".cursor");
      dot.setAttribute("cx", position(chart.x, x).toFixed(1));
      dot.setAttribute("cy", position(chart.y, y).toFixed(1));
      dot.setAttribute("visibility", "visible");
    }
  }
}

/** @type {Pane[]} */
const panes = [];

/** Tie thumbnails, modes and panes of one evaluation set together. @param {HTMLElement} article */
function openGallery(article) {
  const gallery = facts.galleries[Number(article.dataset.gallery)];
  const mine = all(".pane", article).map((figure) => new Pane(figure, gallery.scales[figure.dataset.run], gallery));
  panes.push(...mine);
  const thumbs = all(".thumbs button", article);
  const choose = (button) => {
    thumbs.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
    const frame = gallery.frames[Number(button.dataset.frame)];
    mine.forEach((pane) => pane.load(button.querySelector("img"), frame.maps[pane.run], frame.key));
  };
  thumbs.forEach((button) => button.addEventListener("click", () => choose(button)));
  all(".modes input", article).forEach((input) =>
    input.addEventListener("change", () => mine.forEach((pane) => ((pane.mode = input.value), pane.draw()))),
  );
  if (thumbs.length > 0) choose(thumbs[0]);
}

// ----------------------------------------------------------------------------------------------------------- the page

all("[data-chart]").forEach(liven);
all("[data-gallery]").forEach(openGallery);

/** @type {any} */
const smooth = document.getElementById("smooth");
const drawSmooth = () => document.getElementById("training").classList.toggle("is-smooth", smooth.checked);
smooth?.addEventListener("change", drawSmooth);
if (smooth) drawSmooth();

// On paper everything is open.
window.addEventListener("beforeprint", () => all("details").forEach((each) => (each.open = true)));
