// Many images as a table with a row a plate, to look through, copy and save.
import { make, percent } from "./elements.js";
import { isSure } from "./photograph.js";

const CHINESE = "zh-Hans";
const SMALL = [96, 56]; // pixels of a thumbnail, at most

/** The columns of what is copied and saved: those of `lpr read --csv`. */
const COLUMNS = ["file", "plate", "text", "confidence", "formats", "valid_format"];
COLUMNS.push("found", "rows", "colour", "cut", "corners", "note", "error", "region");

/** Shows an image's rows in its part of the table; `open` shows the image itself. */
export function fill(part, image, open) {
  part.replaceChildren(...records(image).map((record) => row(record, image, open)));
}

/** A record a plate, or one that says why there is none; none while the image is being read. */
function records({ name, answer, refusal }) {
  if (refusal) return [{ file: name, error: refusal.message }];
  if (!answer) return [];
  const { plates, note } = answer.results[0];
  if (!plates.length) return [{ file: name, note }];
  return plates.map((plate, index) => {
    const corners = plate.box.flat().join(" ");
    return { file: name, ...plate, plate: index + 1, formats: plate.formats.join(","), corners, region: plate.region?.code };
  });
}

function row(record, { name, card }, open) {
  const picture = thumbnail(card.querySelector(".picture canvas"));
  const button = make("button", { type: "button", onclick: open, "aria-label": `Show ${name}` }, picture);
  const cells = [make("td", {}, button), make("th", { scope: "row", className: "file" }, name)];
  if (record.plate) cells.push(...plateCells(record, card));
  else cells.push(make("td", { colSpan: 7 }, record.error ?? record.note));
  const element = make("tr", { className: record.plate && isSure(record) ? "sure-row" : "" }, ...cells);
  element.record = record;
  return element;
}

function plateCells(record, card) {
  const { plate, confidence, found, rows, colour, cut } = record;
  const zoom = card.querySelectorAll(".zoom")[plate - 1];
  const told = [found === null ? "" : percent(found), rows ?? "", colour ?? "", cut ? "yes" : ""];
  return [
    make("td", {}, ...(zoom ? [thumbnail(zoom)] : [])),
    make("td", { lang: CHINESE, className: "text" }, record.text || "no text"),
    ...[percent(confidence), ...told].map((cell) => make("td", { className: "number" }, cell)),
  ];
}

function thumbnail(source) {
  const scale = Math.min(SMALL[0] / source.width, SMALL[1] / source.height);
  const canvas = make("canvas", { "aria-hidden": "true" });
  [canvas.width, canvas.height] = [source.width, source.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The rows that a table shows, as text with tabs between. */
export function text(table) {
  return lines(table, (field) => field.replace(/[\t\r\n]+/g, " "), "\t", "\n");
}

/** The rows that a table shows, as CSV; it begins with a mark by which spreadsheets see that it is UTF-8. */
export function csv(table) {
  const quoted = (field) => (/[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field);
  return `\ufeff${lines(table, quoted, ",", "\r\n")}`;
}

function lines(table, escaped, comma, end) {
  const shown = [...table.querySelectorAll("tbody tr")].filter((element) => element.checkVisibility());
  const fields = shown.map(({ record }) => COLUMNS.map((column) => field(record[column])));
  return [COLUMNS, ...fields].map((line) => line.map(escaped).join(comma) + end).join("");
}

function field(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return String(value ?? "");
}
