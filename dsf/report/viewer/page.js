// Starts the viewer in a page.

async function startPage() {
  const content = JSON.parse(document.getElementById("content").textContent);
  if (!content.layers.length) return;
  const app = new App(document.getElementById("maps"), content);
  app.settings.frame = document.documentElement;
  followTheme(() => app.restyle());
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
