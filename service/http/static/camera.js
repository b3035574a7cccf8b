// The camera: a dialog with a frame to align the plate in, and the picture of what the frame shows.

const REFUSALS = {
  NotAllowedError: "The camera was refused: allow it for this page in the browser's settings, then try again.",
  NotFoundError: "There is no camera on this device: drop, paste or choose an image instead.",
  NotReadableError: "The camera is in use by another program: close that, then try again.",
};

const dialog = document.getElementById("viewfinder");
const video = document.getElementById("video");
const frame = document.getElementById("frame");

/** Opens the viewfinder and calls `read` with a JPEG Blob once the user captures; throws an Error with a sentence. */
export async function open(read) {
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
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
  dialog.showModal();
  await video.play();
  document.getElementById("close").onclick = () => dialog.close();
  document.getElementById("capture").onclick = async () => {
    const picture = await capture();
    dialog.close();
    read(picture);
  };
}

/** The frame stands in the middle of a video that covers its box, so that its part of the picture does too. */
function capture() {
  const scale = Math.max(video.clientWidth / video.videoWidth, video.clientHeight / video.videoHeight);
  const [width, height] = [frame.offsetWidth / scale, frame.offsetHeight / scale];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width), Math.round(height)];
  const [left, top] = [(video.videoWidth - width) / 2, (video.videoHeight - height) / 2];
  canvas.getContext("2d").drawImage(video, left, top, width, height, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}
