// The camera: reads one frame after the other, and shows on the picture what it reads.
import { outline } from "./photograph.js";
import { told } from "./reading.js";

const REFUSALS = {
  NotAllowedError: "The camera was refused: allow it for this page in the browser's settings, then try again.",
  NotFoundError: "There is no camera on this device: drop, paste or choose an image instead.",
  NotReadableError: "The camera is in use by another program: close that, then try again.",
};
const LARGEST = 1280; // pixels of a frame's longer side
const PAUSE_MS = 1000; // before a busy server is asked again

const $ = (id) => document.getElementById(id);
const [dialog, video, frame] = ["viewfinder", "video", "frame"].map($);
let turn = null; // of the frames that are read; another one begins with each start

/** Reads what the camera sees until the dialog is closed; throws an Error with a sentence.
 *
 * `recognize` reads a JPEG Blob; `keep` takes one that is to stay. If the server does not find plates, it gets what the
 * frame shows.
 */
export async function open(recognize, keep, finds) {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives a page the camera only over https or on localhost: open this page there.");
  }
  let stream;
  try {
    const wanted = { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    throw new Error(REFUSALS[error.name] ?? `The camera does not start: ${error.message}.`);
  }
  video.srcObject = stream;
  dialog.addEventListener("close", () => end(stream), { once: true });
  $("viewfinder-title").textContent = finds ? "Point the camera at plates" : "Fill the frame with one plate";
  frame.hidden = finds;
  dialog.showModal();
  await video.play();
  video.parentElement.style.setProperty("--ratio", video.videoWidth / video.videoHeight);
  $("close").onclick = () => dialog.close();
  $("run").onclick = () => (turn ? stop() : start(recognize));
  $("keep").onclick = async () => {
    const picture = await capture();
    dialog.close();
    keep(picture);
  };
  start(recognize);
}

function end(stream) {
  stop();
  show([]);
  say("");
  stream.getTracks().forEach((track) => track.stop());
}

function stop() {
  turn = null;
  $("run").textContent = "Start reading";
}

function start(recognize) {
  $("run").textContent = "Stop reading";
  const mine = (turn = {});
  read(recognize, () => turn === mine);
}

/** Reads the newest frame, then the one that is the newest by the time that the answer is there. */
async function read(recognize, going) {
  while (going()) {
    await newFrame();
    if (!going()) return;
    try {
      const { plates, note } = (await recognize(await capture())).results[0];
      if (!going()) return;
      show(plates);
      say(told(plates) || note);
    } catch (error) {
      if (!going()) return;
      say(error.message);
      if (!error.busy) stop();
      await new Promise((done) => setTimeout(done, PAUSE_MS));
    }
  }
}

function newFrame() {
  return new Promise((done) => video.requestVideoFrameCallback(done));
}

function show(plates) {
  outline($("live"), plates.filter(({ found }) => found !== null), ...size(LARGEST, video.videoWidth, video.videoHeight));
}

/** A screen reader speaks what is new. */
function say(sentence) {
  if ($("seen").textContent !== sentence) $("seen").textContent = sentence;
}

function size(most, width, height) {
  const scale = Math.min(1, most / Math.max(width, height, 1));
  return [Math.round(width * scale), Math.round(height * scale)];
}

/** What the camera sees, or its part in the frame: that stands in the middle of the picture. */
function capture() {
  const [across, down] = frame.hidden ? [1, 1] : [frame.offsetWidth / video.clientWidth, frame.offsetHeight / video.clientHeight];
  const [width, height] = [video.videoWidth * across, video.videoHeight * down];
  const [left, top] = [(video.videoWidth - width) / 2, (video.videoHeight - height) / 2];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = size(LARGEST, width, height);
  canvas.getContext("2d").drawImage(video, left, top, width, height, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}
