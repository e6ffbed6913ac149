// Starts the viewer in a page.

function followTheme(app) {
  const toggle = document.getElementById("theme");
  const asked = matchMedia("(prefers-color-scheme: dark)"), printed = matchMedia("print");
  const follow = () => {
    const chosen = document.documentElement.dataset.theme || (asked.matches ? "dark" : "light");
    setTheme(printed.matches ? "light" : chosen);
    toggle.textContent = chosen === "dark" ? "Light" : "Dark";
  };
  const again = () => { follow(); app.restyle(); };
  follow();
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    document.documentElement.dataset.theme = theme === "dark" ? "light" : "dark";
    again();
  });
  for (const question of [asked, printed]) question.addEventListener("change", again);
}

async function startPage() {
  const content = JSON.parse(document.getElementById("content").textContent);
  if (!content.layers.length) return;
  const app = new App(document.getElementById("maps"), content);
  app.settings.frame = document.documentElement;
  followTheme(app);
  await app.start();
  document.addEventListener("keydown", (event) => {
    if (event.target === document.body) app.press(event); // nothing has the focus
  });
  let resized;
  addEventListener("resize", () => { resized = soon(resized, () => app.fit()); });
  document.documentElement.dataset.ready = "true";
}

startPage().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The maps cannot be drawn: ${error.message}.`;
  trouble.hidden = false;
});
