// What the page asks of the server. Every address is relative, so that it works below a prefix too.

/** A request that was not answered with a result; its message is the sentence to show. */
export class Refusal extends Error {
  constructor(message, retryable) {
    super(message);
    this.retryable = retryable;
  }
}

/** Reads one image, a Blob called `name`, with the variant given or the one that the server chose. */
export async function recognize(image, name, variant) {
  const form = new FormData();
  form.append("image", image, name);
  const query = new URLSearchParams({ top_k: 3, ...(variant && { variant }) });
  const start = performance.now();
  const answer = await ask(`recognize?${query}`, { method: "POST", body: form });
  if (variant && answer.model.variant !== variant) {
    throw new Refusal(`The server read it with ${answer.model.variant} instead.`, false);
  }
  return { ...answer, elapsed: performance.now() - start };
}

/** The manifest of the model served, and the variants that a request may choose from: none where it may not. */
export async function describe() {
  const [model, { paths }] = await Promise.all([ask("model"), ask("openapi.json")]);
  const parameters = paths["/recognize"].post.parameters ?? [];
  const choosable = paths["/variants"]?.get && parameters.some(({ name }) => name === "variant");
  return { model, variants: choosable ? names(await ask("variants")) : [] };
}

function names(answer) {
  const entries = Array.isArray(answer) ? answer : answer.variants;
  return entries.map((entry) => entry.variant ?? entry.name ?? entry);
}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Refusal("The server did not answer: see that it runs and that you are connected, then try again.", true);
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const sentence = body.detail ?? `The server answered ${response.status} ${response.statusText}.`;
  throw new Refusal(sentence, response.status === 429 || response.status >= 500);
}
