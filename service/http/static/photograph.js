// The plates on a photograph: outlines over it, and each plate straightened.
import { make } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const GREY = "#808080"; // where the photograph ends

/** Draws the outlines of plates over a picture of this size, with their texts beside; `id` gives where a text leads. */
export function outline(place, plates, width, height, id) {
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  drawing.append(...plates.map(contour));
  const labels = plates.map((plate, number) => label(plate, width, height, id?.(number)));
  place.replaceChildren(drawing, ...labels.filter((_, number) => !fills(plates[number], height)));
}

/** Whether a plate leaves no room for its text, nor needs it: the picture shows little else. */
function fills({ box }, height) {
  const [, top, , bottom] = bounds(box);
  return bottom - top > height / 2;
}

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The four corners, and once more the edge from the first to the second: the top of the plate as it is read. */
function contour(plate) {
  const points = (corners) => corners.map((corner) => corner.join()).join(" ");
  const top = shape("polyline", { class: "top", points: points(plate.box.slice(0, 2)) });
  return shape("g", { class: isSure(plate) ? "" : "unsure" }, shape("polygon", { points: points(plate.box) }), top);
}

/** Above the plate, or below it near the picture's top; in its right part, aligned with the plate's right. */
function label(plate, width, height, id) {
  const [left, top, right, bottom] = bounds(plate.box);
  const text = isSure(plate) ? plate.text : isLegible(plate) ? `${plate.text} ?` : "?";
  const element = make(id ? "a" : "span", { className: "label", lang: "zh-Hans", ...(id && { href: `#${id}` }) }, text);
  if (!isLegible(plate)) element.append(make("span", { className: "unseen", lang: "en" }, " A plate that is not legible"));
  element.classList.toggle("unsure", !isSure(plate));
  const place = (side, share) => element.style.setProperty(side, `${Math.min(100, Math.max(0, 100 * share))}%`);
  if (left > 0.6 * width) place("right", 1 - right / width);
  else place("left", left / width);
  if (top > 0.1 * height) place("bottom", 1 - top / height);
  else place("top", bottom / height);
  return element;
}

/** Whether a plate has a text that is worth to be told at once: what is surely a plate need not have one. */
export function isLegible({ text, confidence }) {
  return text !== "" && confidence >= 0.1;
}

/** Whether a plate is likely one, and likely says what was read. */
export function isSure({ confidence, found }) {
  return Math.min(confidence, found ?? 1) >= 0.9;
}

function bounds(box) {
  const [xs, ys] = [box.map(([x]) => x), box.map(([, y]) => y)];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Fills the canvas with the plate as if it were photographed from the front. */
export function straighten(canvas, picture, box) {
  const { width, height } = canvas;
  const [left, top, right, bottom] = bounds(box);
  const scale = (2 * width) / Math.max(right - left, bottom - top, 1); // so that taking the nearest pixel is fine enough
  const part = document.createElement("canvas");
  [part.width, part.height] = [right - left, bottom - top].map((side) => Math.ceil(side * scale) || 1);
  const context = part.getContext("2d", { willReadFrequently: true });
  context.fillStyle = GREY;
  context.fillRect(0, 0, part.width, part.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left, top, right - left, bottom - top, 0, 0, part.width, part.height);
  const source = new Uint32Array(context.getImageData(0, 0, part.width, part.height).data.buffer);
  const drawing = canvas.getContext("2d");
  const pixels = drawing.createImageData(width, height);
  const target = new Uint32Array(pixels.data.buffer);
  const at = homography(box.map(([x, y]) => [(x - left) * scale, (y - top) * scale]));
  for (let row = 0, index = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1, index += 1) {
      const [x, y] = at((column + 0.5) / width, (row + 0.5) / height).map(Math.floor);
      target[index] = source[Math.min(part.height - 1, Math.max(0, y)) * part.width + Math.min(part.width - 1, Math.max(0, x))];
    }
  }
  drawing.putImageData(pixels, 0, 0);
}

/** The projection of the unit square onto four corners (Heckbert 1989, section 2.2.3). */
export function homography([[x0, y0], [x1, y1], [x2, y2], [x3, y3]]) {
  const [ax, ay, bx, by] = [x1 - x2, y1 - y2, x3 - x2, y3 - y2];
  const [sx, sy] = [x0 - x1 + x2 - x3, y0 - y1 + y2 - y3];
  const determinant = ax * by - bx * ay;
  const g = determinant ? (sx * by - bx * sy) / determinant : 0;
  const h = determinant ? (ax * sy - sx * ay) / determinant : 0;
  const [a, b] = [x1 - x0 + g * x1, x3 - x0 + h * x3];
  const [d, e] = [y1 - y0 + g * y1, y3 - y0 + h * y3];
  return (u, v) => {
    const w = g * u + h * v + 1;
    return [(a * u + b * v + x0) / w, (d * u + e * v + y0) / w];
  };
}
