// The small pieces that boards and tables are made of. Data reaches the page as text and as numbers only.

export function make(tag, className, text, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function shown(number, digits) {
  if (digits === null && number === 0) return "0";
  if (digits === null) return number.toExponential(2).replaceAll("-", "\u2212");
  const rounded = number.toFixed(digits);
  return (Number(rounded) === 0 ? (0).toFixed(digits) : rounded).replace("-", "\u2212");
}

export function intervalText({ low, high }, digits) {
  return low === null || high === null ? "" : `[${shown(low, digits)}, ${shown(high, digits)}]`;
}

// Colour by value: the style sheet mixes the two ends with the middle, so that it can follow light and dark.
export function paint(element, value, bound) {
  element.classList.toggle("missing", value === null);
  element.classList.toggle("negative", value !== null && value < 0);
  element.style.setProperty("--depth", `${value === null ? 0 : Math.min(100, (100 * Math.abs(value)) / bound)}%`);
}

// The ends of an axis that has room for 0 and for all of these values and intervals. Numbers are known to a `step`, so
// that one of at most a step may be 0, which has no bar.
export function axisOf(readings, step) {
  const ends = readings.flatMap(({ value, low, high }) => [value ?? 0, low ?? 0, high ?? 0]);
  const [from, to] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  return [from, to - from <= step ? from + 1 : to];
}

// A bar from 0 to the value and a line over the interval, on an axis that all bars beside it share.
export function buildBar({ value, low, high }, [from, to]) {
  const percent = (number) => (100 * (number - from)) / (to - from);
  const span = (className, start, end) => {
    const part = make("span", className);
    part.style.left = `${percent(start)}%`;
    part.style.width = `${percent(end) - percent(start)}%`;
    return part;
  };
  const bar = make("div", "bar", undefined, { "aria-hidden": "true" });
  bar.append(span(value < 0 ? "fill negative" : "fill", Math.min(0, value), Math.max(0, value)));
  if (low !== null && high !== null) bar.append(span("whisker", low, high));
  bar.append(span("zero", 0, 0));
  return bar;
}

// Buttons of which one is pressed: [text, value] each; `choose` hears the value of the next.
export function buildChoices(name, options, choose) {
  const box = make("div", "choices", undefined, { role: "group", "aria-label": name });
  box.append(make("span", "name", name));
  const buttons = options.map(([text, value]) => {
    const button = make("button", "", text, { type: "button" });
    button.addEventListener("click", () => choose(value));
    return button;
  });
  box.append(...buttons);
  const press = (chosen) => {
    options.forEach(([, value], at) => buttons[at].setAttribute("aria-pressed", String(value === chosen)));
  };
  return { box, press };
}
