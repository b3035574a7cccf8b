// From an answer of the server to what is shown of it.
import { make, milliseconds, percent } from "./elements.js";
import { isLegible, isSure, outline, straighten } from "./photograph.js";

const STAGES = {
  decode: "Decode",
  find: "Find plates",
  rectify: "Straighten",
  preprocess: "Resize",
  queue: "Wait",
  inference: "Inference",
  postprocess: "Read the text",
};
const LARGEST = 1280; // pixels of the longer side of what is shown of an image
const ZOOM = { 1: [376, 96], 2: [300, 150] }; // pixels of a straightened plate, by its rows
const SPOKEN = 3; // plates of an image whose texts are spoken
const CHINESE = "zh-Hans";
let cards = 0; // that were shown: parts of the page are named by it

/** Draws the picture into the card, its longer side at most LARGEST; gives it, or null if the browser can't decode it. */
export async function preview(card, image, name) {
  const canvas = card.querySelector("canvas");
  canvas.setAttribute("aria-label", `The image ${name}`);
  const caption = card.querySelector("figcaption");
  caption.textContent = name;
  let bitmap;
  try {
    bitmap = await createImageBitmap(image);
  } catch {
    canvas.classList.add("missing");
    return null;
  }
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  [canvas.width, canvas.height] = [Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale)];
  card.querySelector(".picture").style.setProperty("--ratio", bitmap.width / bitmap.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  caption.append(make("span", {}, ` ${bitmap.width} × ${bitmap.height}`));
  card.classList.toggle("photograph", bitmap.width >= 600 && bitmap.width < 1.9 * bitmap.height);
  return bitmap;
}

/** Says that a card's image is being read. */
export function wait(card) {
  card.setAttribute("aria-busy", "true");
  card.querySelector(".said").replaceChildren(make("p", { className: "waiting" }, "Reading …"));
}

/** Fills a card with an answer, and with the plates of the picture if there is one; returns the sentence that is spoken. */
export function show(card, answer, name, picture) {
  const said = card.querySelector(".said");
  card.removeAttribute("aria-busy");
  const { model } = answer;
  card.querySelector(".reader").replaceChildren("Read by ", make("strong", {}, model.variant), ` ${model.version} on ${model.engine}`);
  const { plates, note } = answer.results[0];
  const advice = advise(card, answer);
  if (!plates.length) {
    said.replaceChildren(make("h2", { className: "nothing" }, "No plate"), make("p", { className: "note" }, note), make("p", {}, advice));
    return `${name}: no plate. ${note}`;
  }
  const number = (cards += 1);
  const id = (index) => `plate-${number}-${index + 1}`;
  const part = document.getElementById("reading").content.cloneNode(true);
  const find = (selector) => part.querySelector(selector);
  find(".plates").append(...plates.map((plate, index) => shown(plate, id(index), picture, plates.length === 1)));
  find(".total").textContent = milliseconds(answer.timing_ms.total);
  const stages = Object.entries(answer.timing_ms).filter(([name, value]) => name !== "total" && value >= 0.005);
  find(".stages").append(...stages.map(segment));
  find(".legend").append(...stages.flatMap(entry), ...roundTrip(answer.elapsed));
  find(".times").open = plates.length === 1;
  find(".aside").textContent = advice;
  find(".aside").hidden = !advice;
  said.replaceChildren(part);
  const found = plates.filter(isFound);
  card.classList.toggle("photograph", found.length > 0 || card.classList.contains("photograph"));
  if (picture && found.length) outline(card.querySelector(".outlines"), found, picture.width, picture.height, id);
  return summary(plates, name);
}

function summary(plates, name) {
  if (plates.length > 1) return `${name} has ${plates.length} plates: ${told(plates)}.`;
  return isLegible(plates[0]) ? `${name} reads ${told(plates)}.` : `${name} has a plate that is not legible.`;
}

/** The texts of the first plates that are legible, and how many more there are. */
export function told(plates) {
  const texts = plates.filter(isLegible).map(({ text, confidence }) => `${text}, ${percent(confidence)} sure`);
  const others = plates.length - Math.min(texts.length, SPOKEN);
  if (texts.length > SPOKEN) texts.splice(SPOKEN, Infinity, `${others} more`);
  else if (others) texts.push(`${others} not legible`);
  return texts.join("; ");
}

/** Whether a plate was found in a photograph: else the image was read as a crop of one. */
const isFound = ({ found }) => found !== null;

/** One plate; what there is to know besides its text is unfolded where the plate is the only one. */
function shown(plate, id, picture, only) {
  const part = document.getElementById("plate").content.firstElementChild.cloneNode(true);
  const find = (selector) => part.querySelector(selector);
  part.id = id;
  const zoom = find(".zoom");
  if (picture && isFound(plate)) {
    [zoom.width, zoom.height] = ZOOM[plate.rows];
    straighten(zoom, picture, plate.box);
  } else zoom.remove();
  find(".whole").append(make("span", { lang: CHINESE }, plate.text || "No text"));
  find(".characters").append(...plate.characters.map(character));
  find(".characters").hidden = !plate.text;
  find(".verdict strong").textContent = plate.text ? `${percent(plate.confidence)} sure` : "surely a plate";
  find(".format").textContent = plate.valid_format ? `fits ${plate.formats.join(", ")}` : "fits no known format";
  find(".candidates").append(...plate.candidates.map((candidate) => alternative(candidate, plate.text)));
  find(".looks").append(...looks(plate).flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, fact)]));
  find(".details").open = only;
  part.classList.toggle("unsure", !isSure(plate));
  copying(find(".copy"), plate.text);
  return part;
}

function looks(plate) {
  const country = plate.region ? [["Country", `${plate.region.code}, ${percent(plate.region.probability)} sure`]] : [];
  if (!isFound(plate)) return country;
  return [
    ...country,
    ["A plate", `${percent(plate.found)} sure`],
    ["Rows", plate.rows],
    ["Colour", plate.colour],
    ["Cut by the edge", plate.cut ? "yes" : "no"],
  ];
}

/** What to do where nothing was read, or where a whole photograph was read as a crop. */
function advise(card, { results: [{ plates }], timing_ms }) {
  if (timing_ms.find) return plates.length ? "" : "Take the picture from nearer, or cut the image to the plate, and try again.";
  if (card.classList.contains("photograph")) {
    return "This looks like a whole photograph. The server takes one plate per image: cut it out first.";
  }
  return plates.length ? "" : "Cut the image to the plate, its edges just inside, and try again.";
}

/** Fills a card with the sentence of a refusal, and a button if trying again may help. */
export function refuse(card, refusal, name, again) {
  card.removeAttribute("aria-busy");
  const said = [make("h2", { className: "nothing" }, "Not read"), make("p", { className: "sentence" }, refusal.message)];
  if (refusal.retryable) {
    said.push(make("button", { type: "button", className: "plain", onclick: again }, "Try again"));
  }
  card.querySelector(".said").replaceChildren(...said);
  return `${name}: ${refusal.message}`;
}

/** One table of what each variant reads on the same image; `rows` are [variant, answer or Refusal]. */
export function compare(card, rows, text) {
  const place = card.querySelector(".comparison");
  if (!place) return;
  const titles = ["Variant", "Reading", "Sure", "Inference", "In the server", "Engine"];
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const table = make("table", {}, make("caption", {}, "What each variant reads on this image"));
  table.append(make("thead", {}, head), make("tbody", {}, ...rows.map((row) => compared(row, text))));
  place.replaceChildren(make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Comparison" }, table));
  place.hidden = false;
}

/** The texts of an image, in one line. */
export function texts(answer) {
  return answer.results[0].plates.map(({ text }) => text || "no text").join(", ");
}

function compared([variant, answer], text) {
  const title = make("th", { scope: "row" }, variant);
  if (!answer) return make("tr", {}, title, make("td", { colSpan: 5 }, "Reading …"));
  if (answer instanceof Error) return make("tr", {}, title, make("td", { colSpan: 5 }, answer.message));
  const { plates } = answer.results[0];
  const least = plates.length ? percent(Math.min(...plates.map(({ confidence }) => confidence))) : "";
  const cells = [
    make("td", { lang: CHINESE, className: "text" }, ...differences(texts(answer), text)),
    ...[least, milliseconds(answer.timing_ms.inference), milliseconds(answer.timing_ms.total)].map(
      (cell) => make("td", { className: "number" }, cell),
    ),
    make("td", {}, answer.model.engine),
  ];
  return make("tr", {}, title, ...cells);
}

function character({ char, confidence }) {
  const bar = make("span", { className: `sure ${level(confidence)}`, "aria-hidden": "true" });
  bar.style.setProperty("--share", confidence);
  return make(
    "li",
    { title: `${char}: ${percent(confidence)}` },
    make("span", { className: "char", lang: CHINESE }, char),
    bar,
    make("span", { className: "unseen" }, ` ${percent(confidence)}`),
    make("span", { className: "share", "aria-hidden": "true" }, confidence === 1 ? "100" : Math.min(99.9, 100 * confidence).toFixed(1)),
  );
}

const level = (confidence) => (confidence >= 0.9 ? "high" : confidence >= 0.6 ? "middle" : "low");

function alternative({ text, confidence }, read) {
  const bar = make("span", { className: "sure", "aria-hidden": "true" });
  bar.style.setProperty("--share", confidence);
  return make(
    "li",
    {},
    make("span", { className: "text", lang: CHINESE }, ...differences(text, read)),
    make("span", { className: "number" }, percent(confidence)),
    bar,
  );
}

/** The characters of a text, those marked that another text of the same length has otherwise. */
function differences(text, other) {
  if (!text) return ["nothing"];
  const [mine, theirs] = [[...text], [...other]];
  if (mine.length !== theirs.length) return [text];
  return mine.map((char, index) => (char === theirs[index] ? char : make("mark", {}, char)));
}

function segment([name, value]) {
  const element = make("span", { className: `stage ${name}` });
  element.style.flexGrow = value;
  return element;
}

function entry([name, value]) {
  const term = make("dt", {}, make("span", { className: `key ${name}`, "aria-hidden": "true" }), STAGES[name] ?? name);
  return [term, make("dd", {}, milliseconds(value))];
}

function roundTrip(elapsed) {
  return [make("dt", { className: "trip" }, "Seen from the browser"), make("dd", { className: "trip" }, milliseconds(elapsed))];
}

function copying(button, text) {
  if (!navigator.clipboard || !text) {
    button.remove(); // browsers allow it only over https or on localhost
    return;
  }
  button.setAttribute("aria-label", `Copy ${text}`);
  button.onclick = async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    button.setAttribute("aria-label", `Copied ${text}`);
  };
}
