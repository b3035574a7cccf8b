// Takes images in (dropped, pasted, chosen, captured, examples), has them read, and shows what came back.
import * as camera from "./camera.js";
import { make } from "./elements.js";
import { compare, preview, refuse, show, texts, wait } from "./reading.js";
import { describe, recognize } from "./server.js";
import * as table from "./table.js";

const AT_ONCE = 4; // requests under way
const MANY = 6; // images: more are shown as a table
const $ = (id) => document.getElementById(id);

const images = []; // {blob, name, card, rows, answer?, refusal?}
const waiting = [];
let underWay = 0;
let variants = [];
let finds = false; // whether the server finds plates in photographs
let comparisons = Promise.resolve();

function add(files) {
  notice("");
  const added = [...files].map((blob) => {
    const card = $("card").content.firstElementChild.cloneNode(true);
    wait(card);
    return { blob, name: blob.name ?? "camera.jpg", card, rows: make("tbody") };
  });
  if (!added.length) return;
  document.body.classList.add("reading");
  images.unshift(...added);
  $("cards").prepend(...added.map(({ card }) => card));
  $("head").after(...added.map(({ rows }) => rows));
  $("clear").hidden = false;
  $("tabular-label").hidden = images.length < 2;
  if (images.length > MANY && images.length - added.length <= MANY) tabulate(true);
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
  const drawn = preview(card, blob, name);
  try {
    image.answer = await recognize(blob, name);
    image.refusal = undefined;
    said = show(card, image.answer, name, await drawn);
  } catch (error) {
    image.refusal = error;
    said = refuse(card, error, name, () => {
      waiting.push(image);
      advance();
    });
  }
  (await drawn)?.close();
  table.fill(image.rows, image, () => display(card));
  if (!images.includes(image)) return; // cleared meanwhile
  const left = images.filter(({ card }) => card.hasAttribute("aria-busy")).length;
  $("status").textContent = left ? `${said} ${left} to go.` : said;
  if ($("compare").checked) contrast(image);
}

/** Shows all images as a table, or as cards. */
function tabulate(wanted) {
  $("tabular").checked = wanted;
  document.body.classList.toggle("tabular", wanted);
}

function display(card) {
  tabulate(false);
  card.focus();
}

async function copyTable() {
  await navigator.clipboard.writeText(table.text($("table")));
  $("status").textContent = "The rows are copied.";
}

function saveTable() {
  const address = URL.createObjectURL(new Blob([table.csv($("table"))], { type: "text/csv" }));
  make("a", { href: address, download: "plates.csv" }).click();
  URL.revokeObjectURL(address);
}

/** Has images compared one after the other, and each read by every variant in turn, so that none slows another down. */
function contrast(image) {
  comparisons = comparisons.then(() => readByAll(image));
}

async function readByAll({ blob, name, card, answer }) {
  if (!$("compare").checked) return; // switched off meanwhile
  const text = answer ? texts(answer) : "";
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
  for (const rows of $("table").querySelectorAll("tbody")) rows.remove();
  $("tabular-label").hidden = true;
  tabulate(false);
  $("status").textContent = "";
  $("clear").hidden = true;
  document.body.classList.remove("reading");
  $("choose").focus();
}

const recognizeFrame = (picture) => recognize(picture, "camera.jpg");

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
  $("camera").onclick = () => camera.open(recognizeFrame, (picture) => add([picture]), finds).catch((error) => notice(error.message));
  for (const button of document.querySelectorAll("[data-example]")) {
    button.onclick = () => example(button.dataset.example);
  }
  $("clear").onclick = clear;
  $("tabular").onchange = ({ target }) => tabulate(target.checked);
  $("unsure").onchange = ({ target }) => $("table").classList.toggle("only-unsure", target.checked);
  $("copy-table").hidden = !navigator.clipboard; // browsers allow it only over https or on localhost
  $("copy-table").onclick = copyTable;
  $("save-table").onclick = saveTable;
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
document.fonts.load('1em "Plate strokes"', "京"); // loaded when it is needed, Chromium may go on showing boxes
try {
  const { model, closed, variants: offered } = await describe();
  variants = offered;
  finds = model.finds;
  $("takes").textContent = finds ? "A photograph with any number of plates, or a plate cut out." : "One plate per image, cut out as a detector would.";
  $("compare-label").hidden = variants.length < 2;
  $("compare-off").hidden = !closed;
  facts(model);
} catch (error) {
  notice(error.message);
}
