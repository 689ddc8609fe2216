// The words of a prompt and its answer in a line: one is chosen, by a click or by the arrow keys.

import { make } from "./elements.js";

const TURNS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

// `choose` hears the index of a token. Tokens from `prompt` on are the answer's.
export function buildStrip(tokens, prompt, choose) {
  const box = make("div", "tokens-strip", undefined, { role: "listbox", "aria-label": "Words", "aria-orientation": "horizontal" });
  const buttons = tokens.map((token, at) => {
    const part = at < prompt ? "prompt" : "answer";
    const about = { role: "option", tabindex: "-1", "aria-label": `${token}, of the ${part}` };
    const button = make("span", `token ${part}`, token.trim() === "" ? "\u2423" : token, about);
    button.dataset.token = at;
    return button;
  });
  const [asked, said] = [make("span", "part"), make("span", "part")];
  for (const [line, name, own] of [
    [asked, "prompt", buttons.slice(0, prompt)],
    [said, "answer", buttons.slice(prompt)],
  ]) {
    line.setAttribute("role", "presentation");
    if (own.length) line.append(make("span", "name", name, { "aria-hidden": "true" }), ...own);
  }
  box.append(asked, said);
  let marked = buttons[0];
  box.addEventListener("click", (event) => {
    const at = event.target.closest?.(".token")?.dataset.token;
    if (at !== undefined) choose(Number(at));
  });
  box.addEventListener("keydown", (event) => {
    const from = event.target.closest?.(".token")?.dataset.token;
    if (from === undefined || !(event.key in TURNS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(Number(from) + TURNS[event.key], tokens.length - 1));
    choose(to);
    buttons[to].focus();
  });
  return {
    box,
    mark(at) {
      marked.tabIndex = -1;
      marked.setAttribute("aria-selected", "false");
      marked = buttons[at];
      marked.tabIndex = 0;
      marked.setAttribute("aria-selected", "true");
    },
  };
}
