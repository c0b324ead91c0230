// Exchanges the parts of the page that change while the job runs, and stops the job for whoever has its token.
(() => {
  "use strict";
  const link = document.getElementById("link");
  const say = (text, state) => {
    link.textContent = text;
    link.dataset.state = state;
  };

  // What somebody chose in a part stays chosen: a tab (unless it was the newest), folded parts, how far it is scrolled.
  const exchange = (name, html) => {
    const part = document.getElementById(`part-${name}`);
    if (!part) return;
    const tabs = [...part.querySelectorAll("input[type=radio]")];
    const chosen = tabs.findIndex((tab) => tab.checked);
    const tab = chosen >= 0 && chosen < tabs.length - 1 ? tabs[chosen].id : null;
    const open = [...part.querySelectorAll("details")].map((details) => details.open);
    const scrolled = [...part.querySelectorAll("[tabindex]")].map((box) => [box.scrollTop, box.scrollLeft]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    if (tab) {
      const again = document.getElementById(tab);
      if (again) again.checked = true;
    }
    part.querySelectorAll("details").forEach((details, at) => { details.open = open[at] ?? details.open; });
    part.querySelectorAll("[tabindex]").forEach((box, at) => {
      if (scrolled[at]) [box.scrollTop, box.scrollLeft] = scrolled[at];
    });
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const version = document.querySelector("meta[name=generator]").content;
  const AGAIN = 1500;
  const SILENCE = 20000;
  let source, silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(lost, SILENCE);
  };
  const lost = () => {
    source.close();
    clearTimeout(silence);
    say("the coordinator is away; waiting", "lost");
    setTimeout(listen, AGAIN);
  };
  const listen = () => {
    source = new EventSource("changes");
    let isOver = false;
    heard();
    source.addEventListener("hello", (event) => {
      if (version !== `stillhouse ${event.data}`) location.reload();
      say("live", "live");
    });
    source.addEventListener("alive", heard);
    source.addEventListener("part", (event) => {
      heard();
      const { name, html } = JSON.parse(event.data);
      exchange(name, html);
    });
    source.addEventListener("over", (event) => {
      isOver = event.data === "finished";
      if (!isOver) return;
      source.close();
      clearTimeout(silence);
      say("the job is done", "over");
    });
    source.onerror = () => { if (!isOver) lost(); };
  };
  listen();

  const form = document.getElementById("stop");
  if (!form) return;
  const told = document.getElementById("stop-told");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = document.getElementById("token");
    told.textContent = "asking\u2026";
    try {
      const answer = await fetch("stop", { method: "POST", headers: { Authorization: `Bearer ${token.value.trim()}` } });
      told.textContent = await answer.text();
      token.value = "";
    } catch {
      told.textContent = "the coordinator is away";
    }
  });
})();
