// Starts the viewer in a notebook, in a shadow root, so that page and viewer keep their styles.

function notebookTheme() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "false" ? "dark" : "light";
  if (vscodeThemeKind) return vscodeThemeKind.includes("light") ? "light" : "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

async function render({ model, el }) {
  const host = make("div", { className: "dsf" }), place = make("div", { className: "explorer" });
  const shadow = host.attachShadow({ mode: "open" });
  shadow.append(make("style", {}, SHEET), place);
  el.append(host);
  const app = new App(place, model.get("content"));
  const follow = () => {
    host.dataset.theme = notebookTheme();
    setTheme(host.dataset.theme);
  };
  follow();
  const watch = new MutationObserver(() => { follow(); app.restyle(); });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
  try {
    await app.start();
    host.dataset.ready = "true";
  } catch (error) {
    place.textContent = `The maps cannot be drawn: ${error.message}.`;
  }
  return () => watch.disconnect();
}

export default { render };
