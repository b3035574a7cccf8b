// Elements and numbers, as all parts of the page make them.

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

export const milliseconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)}${SPACE}ms`;
