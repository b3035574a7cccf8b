// What the page asks of the server. Every address is relative, so that it works below a prefix too.

/** A request that was not answered with a result; its message is the sentence to show. `busy`: a moment later it may be. */
export class Refusal extends Error {
  constructor(message, retryable, busy = false) {
    super(message);
    this.retryable = retryable;
    this.busy = busy;
  }
}

/** Reads one image, a Blob called `name`, with the variant given or the one that the server chose. */
export async function recognize(image, name, variant) {
  const form = new FormData();
  form.append("image", image, name);
  const query = new URLSearchParams({ top_k: 3, ...(variant && { variant }) });
  const start = performance.now();
  const answer = await ask(`recognize?${query}`, { method: "POST", body: form });
  return { ...answer, elapsed: performance.now() - start };
}

/** The manifest of the active model, the names of the variants that a request may choose, and whether LPR_CHOICE keeps others from it. */
export async function describe() {
  const [model, { variants }] = await Promise.all([ask("model"), ask("variants")]);
  const closed = variants.some(({ choosable, problem }) => !choosable && problem === null);
  return { model, closed, variants: variants.filter(({ choosable }) => choosable).map(({ variant }) => variant) };
}

let key = sessionStorage.getItem("key");

async function ask(address, options) {
  const sent = key;
  let response;
  try {
    response = await fetch(address, { ...options, headers: sent ? { Authorization: `Bearer ${sent}` } : {} });
  } catch {
    throw new Refusal("The server did not answer: see that it runs and that you are connected, then try again.", true);
  }
  if (response.status === 401) {
    if (key === sent) key = window.prompt("This server wants an API key:"); // else another request has just asked
    if (key && key !== sent) {
      sessionStorage.setItem("key", key);
      return ask(address, options);
    }
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const sentence = body.detail ?? `The server answered ${response.status} ${response.statusText}.`;
  const { status } = response;
  throw new Refusal(sentence, [401, 429].includes(status) || status >= 500, [429, 503].includes(status));
}
