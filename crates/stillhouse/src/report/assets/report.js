// The page is whole without this: a switch between light and dark, and tooltips without delay.
(() => {
  "use strict";
  const dark = document.getElementById("dark");
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  // A page opened from a file may be refused storage; then the choice lasts as long as the page.
  const stored = {
    get: () => { try { return localStorage.getItem("stillhouse-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("stillhouse-theme", value); } catch { /* not kept */ } },
  };
  let choice = stored.get();
  const isDark = () => (choice ? choice === "dark" : system.matches);
  const show = () => {
    dark.media = isDark() ? "all" : "not all";
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    choice = isDark() ? "light" : "dark";
    stored.set(choice);
    show();
  });
  system.addEventListener("change", show);
  button.hidden = false;
  show();

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  // The text of a point moves out of its <title>, so that the browser's own tooltip does not come too.
  const take = (point) => {
    const title = point.querySelector("title");
    if (title) {
      point.dataset.tip = title.textContent;
      title.remove();
    }
    return point.dataset.tip;
  };
  document.addEventListener("pointerover", (event) => {
    const point = event.target.closest?.(".point");
    tip.hidden = !point;
    if (!point) return;
    tip.textContent = take(point);
    const at = point.querySelector(".dot").getBoundingClientRect();
    const left = Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, at.top - tip.offsetHeight - 10)}px`;
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
