// Takes images in (dropped, pasted, chosen, captured, examples), has them read, and shows what came back.
import * as camera from "./camera.js";
import { compare, make, preview, refuse, show, wait } from "./reading.js";
import { describe, recognize } from "./server.js";

const AT_ONCE = 4; // requests under way
const $ = (id) => document.getElementById(id);

const images = []; // {blob, name, card, answer?}
const waiting = [];
let underWay = 0;
let variants = [];
let comparisons = Promise.resolve();

function add(files) {
  notice("");
  const added = [...files].map((blob) => {
    const card = $("card").content.firstElementChild.cloneNode(true);
    wait(card);
    return { blob, name: blob.name ?? "camera.jpg", card };
  });
  if (!added.length) return;
  document.body.classList.add("reading");
  images.unshift(...added);
  $("cards").prepend(...added.map(({ card }) => card));
  $("clear").hidden = false;
  waiting.push(...added);
  advance();
}

function advance() {
  while (underWay < AT_ONCE && waiting.length) {
    underWay += 1;
    read(waiting.shift()).finally(() => {
      underWay -= 1;
      advance();
    });
  }
}

async function read(image) {
  const { blob, name, card } = image;
  let said;
  wait(card);
  try {
    const [answer] = await Promise.all([recognize(blob, name), preview(card, blob, name)]);
    image.answer = answer;
    said = show(card, answer, name);
  } catch (error) {
    said = refuse(card, error, name, () => {
      waiting.push(image);
      advance();
    });
  }
  if (!images.includes(image)) return; // cleared meanwhile
  const left = images.filter(({ card }) => card.hasAttribute("aria-busy")).length;
  $("status").textContent = left ? `${said} ${left} to go.` : said;
  if ($("compare").checked) contrast(image);
}

/** Has images compared one after the other, and each read by every variant in turn, so that none slows another down. */
function contrast(image) {
  comparisons = comparisons.then(() => readByAll(image));
}

async function readByAll({ blob, name, card, answer }) {
  if (!$("compare").checked) return; // switched off meanwhile
  const text = answer?.results[0].plates[0]?.text ?? "";
  const rows = variants.map((variant) => [variant, null]);
  for (const row of rows) {
    compare(card, rows, text);
    row[1] = await recognize(blob, name, row[0]).catch((error) => error);
  }
  compare(card, rows, text);
}

function notice(sentence) {
  $("notice").textContent = sentence;
  $("notice").hidden = !sentence;
}

async function example(name) {
  const response = await fetch(`static/examples/${name}`);
  add([new File([await response.blob()], name, { type: response.headers.get("content-type") })]);
}

function clear() {
  waiting.length = 0;
  images.length = 0;
  $("cards").replaceChildren();
  $("status").textContent = "";
  $("clear").hidden = true;
  document.body.classList.remove("reading");
  $("choose").focus();
}

function takeIn() {
  $("choose").onclick = () => $("files").click();
  $("files").onchange = ({ target }) => {
    add(target.files);
    target.value = ""; // so that the same file can be chosen again
  };
  document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", type === "dragenter" || type === "dragover");
    });
  }
  document.addEventListener("drop", ({ dataTransfer }) => {
    add(dataTransfer.files);
    if (!dataTransfer.files.length) notice("That was no file: save the image first, then drop the file.");
  });
  $("camera").onclick = () => camera.open((picture) => add([picture])).catch((error) => notice(error.message));
  for (const button of document.querySelectorAll("[data-example]")) {
    button.onclick = () => example(button.dataset.example);
  }
  $("clear").onclick = clear;
  $("compare").onchange = ({ target }) => {
    for (const image of images.filter(({ answer }) => answer)) {
      if (target.checked) contrast(image);
      else image.card.querySelector(".comparison")?.setAttribute("hidden", "");
    }
  };
}

function facts(model) {
  const { measured } = model;
  const pairs = [["Variant", model.variant], ["Version", model.version], ["Engine", model.backend]];
  if (measured) {
    const { median, batch, threads } = measured.latency_ms;
    const plates = batch === 1 ? "a plate" : `${batch} plates`;
    pairs.push(
      ["Inference", `${median} ms ${plates}, ${threads === 1 ? "one thread" : `${threads} threads`}, ${measured.machine}`],
      ["Size", `${(measured.size_bytes / 1e6).toFixed(2)} MB`],
      ["Weights", measured.parameters.toLocaleString("en")],
    );
    $("measured").replaceChildren(scores(measured.accuracy));
  }
  $("facts").replaceChildren(...pairs.flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, fact)]));
}

function scores(accuracy) {
  const titles = ["Set", "Plates", "Read exactly", "95 % interval (%)"];
  const rows = Object.entries(accuracy).map(([set, { exact, total, low, high }]) => {
    const [share, from, to] = [exact / total, low, high].map((part) => (100 * part).toFixed(1));
    const cells = [total.toLocaleString("en"), `${share}\u00a0%`, `${from} to\u00a0${to}`];
    return make("tr", {}, make("th", { scope: "row" }, set), ...cells.map((cell) => make("td", { className: "number" }, cell)));
  });
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  return make("table", {}, make("caption", {}, "Accuracy, measured through this server's code"), make("thead", {}, head), make("tbody", {}, ...rows));
}

takeIn();
try {
  const { model, closed, variants: offered } = await describe();
  variants = offered;
  $("compare-label").hidden = variants.length < 2;
  $("compare-off").hidden = !closed;
  facts(model);
} catch (error) {
  notice(error.message);
}
