// From an answer of the server to what is shown of it.

const STAGES = {
  decode: "Decode",
  preprocess: "Resize",
  queue: "Wait",
  inference: "Inference",
  postprocess: "Find the text",
};
const LARGEST = 640; // pixels of a crop's preview
const CHINESE = "zh-Hans";
const SPACE = "\u00a0"; // breaks no line

/** An element with properties, or attributes where there is no such property, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A probability for reading: "57.3 %", and never 100 where it is not certain. */
export function percent(share) {
  if (share === 1) return `100${SPACE}%`;
  if (share > 0.9999) return `> 99.99${SPACE}%`;
  if (share < 0.0001) return `< 0.01${SPACE}%`;
  return `${(100 * share).toFixed(share > 0.99 || share < 0.01 ? 2 : 1)}${SPACE}%`;
}

const milliseconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)}${SPACE}ms`;

/** Draws the picture into the card, its longer side at most LARGEST; false if the browser can't decode it. */
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
    return;
  }
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  [canvas.width, canvas.height] = [Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale)];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  caption.append(make("span", {}, ` ${bitmap.width} × ${bitmap.height}`));
  card.dataset.photograph = bitmap.width >= 600 && bitmap.width < 1.9 * bitmap.height;
  bitmap.close();
}

/** Says that a card's image is being read. */
export function wait(card) {
  card.setAttribute("aria-busy", "true");
  card.querySelector(".said").replaceChildren(make("p", { className: "waiting" }, "Reading …"));
}

/** Fills a card with an answer; returns the sentence that is spoken. */
export function show(card, answer, name) {
  const said = card.querySelector(".said");
  card.removeAttribute("aria-busy");
  const { model } = answer;
  card.querySelector(".reader").replaceChildren("Read by ", make("strong", {}, model.variant), ` ${model.version} on ${model.engine}`);
  const { plates, note } = answer.results[0];
  const plate = plates[0];
  if (!plate) {
    const advice = advise(card) || "Cut the image to the plate, its edges just inside, and try again.";
    said.replaceChildren(make("h2", { className: "nothing" }, "No plate"), make("p", { className: "note" }, note), make("p", {}, advice));
    return `${name}: no plate. ${note}`;
  }
  const part = document.getElementById("reading").content.cloneNode(true);
  const find = (selector) => part.querySelector(selector);
  find(".whole").append(make("span", { lang: CHINESE }, plate.text));
  find(".characters").append(...plate.characters.map(character));
  find(".verdict strong").textContent = `${percent(plate.confidence)} sure`;
  find(".format").textContent = plate.valid_format ? `fits ${plate.formats.join(", ")}` : "fits no known format";
  find(".candidates").append(...plate.candidates.map((candidate) => alternative(candidate, plate.text)));
  find(".total").textContent = milliseconds(answer.timing_ms.total);
  const stages = Object.entries(answer.timing_ms).filter(([name]) => name !== "total");
  find(".stages").append(...stages.map(segment));
  find(".legend").append(...stages.flatMap(entry), ...roundTrip(answer.elapsed));
  const advice = advise(card);
  find(".aside").textContent = advice;
  find(".aside").hidden = !advice;
  copying(find(".copy"), plate.text);
  said.replaceChildren(part);
  return `${name} reads ${plate.text}, ${percent(plate.confidence)} sure.`;
}

function advise(card) {
  return card.dataset.photograph === "true"
    ? "This looks like a whole photograph. The reader takes one plate per image: cut it out first."
    : "";
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

function compared([variant, answer], text) {
  const title = make("th", { scope: "row" }, variant);
  if (!answer) return make("tr", {}, title, make("td", { colSpan: 5 }, "Reading …"));
  if (answer instanceof Error) return make("tr", {}, title, make("td", { colSpan: 5 }, answer.message));
  const plate = answer.results[0].plates[0];
  const cells = [
    make("td", { lang: CHINESE, className: "text" }, ...(plate ? differences(plate.text, text) : ["nothing"])),
    ...[plate ? percent(plate.confidence) : "", milliseconds(answer.timing_ms.inference), milliseconds(answer.timing_ms.total)].map(
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
  const [mine, theirs] = [[...text], [...other]];
  if (mine.length !== theirs.length) return text === "" ? ["nothing"] : [text];
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
  if (!navigator.clipboard) {
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
