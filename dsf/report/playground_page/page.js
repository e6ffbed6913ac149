// Starts the playground in a page.

function startPlayground() {
  const board = new Board(document.getElementById("board"), JSON.parse(document.getElementById("content").textContent));
  const asked = matchMedia("(prefers-color-scheme: dark)"), toggle = document.getElementById("theme");
  const follow = () => {
    setTheme(document.documentElement.dataset.theme || (asked.matches ? "dark" : "light"));
    toggle.textContent = theme === "dark" ? "Light" : "Dark";
    board.draw();
  };
  toggle.addEventListener("click", () => {
    document.documentElement.dataset.theme = theme === "dark" ? "light" : "dark";
    follow();
  });
  asked.addEventListener("change", follow);
  follow();
  toggle.hidden = false;
  document.documentElement.dataset.ready = "true";
}

startPlayground();
