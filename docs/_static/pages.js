// What is wider than the page scrolls inside itself: keys reach it, and it has a name.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role='heading']")) caption.ariaLevel = "2";
  for (const inner of document.querySelectorAll("ul > ul")) inner.previousElementSibling?.append(inner); // a list holds items alone
  if (!document.querySelector("h1")) { // as on the page of a search
    const heading = document.createElement("h1");
    heading.textContent = document.title.split(" - ")[0];
    document.querySelector("article")?.prepend(heading);
  }
  if (document.querySelector("#search-results")) askAgain(); // on a narrow page the only field lies in a closed drawer
  const drawers = { ".sidebar-drawer": "Pages", ".toc-drawer": "On this page" };
  for (const [drawer, name] of Object.entries(drawers)) document.querySelector(drawer)?.setAttribute("aria-label", name);
  for (const cell of document.querySelectorAll(".table-wrapper td")) { // sentences get room, numbers no line break
    const size = cell.textContent.trim().length;
    cell.classList.add(size > 60 ? "long" : size > 20 ? "some" : size > 11 ? "plain" : "short");
  }
  boxes();
  addEventListener("resize", boxes);
});

addEventListener("load", () => {
  for (const image of document.querySelectorAll("article img:not(.on-wide-pages, .tiles img)")) {
    if (image.naturalWidth < 700 || image.naturalWidth < 2 * image.naturalHeight) continue;
    const box = document.createElement("div");
    box.className = "broad";
    image.replaceWith(box);
    box.append(image);
  }
  boxes();
});

/** A field for words on the page of results, which has none of its own. */
function askAgain() {
  const form = document.createElement("form"), field = document.createElement("input");
  Object.assign(form, { action: "search.html", role: "search", className: "again" });
  Object.assign(field, { name: "q", type: "search", placeholder: "Words to look for", value: new URLSearchParams(location.search).get("q") || "" });
  field.setAttribute("aria-label", "Words to look for");
  form.append(field);
  document.querySelector("article h1")?.after(form);
}

function boxes() {
  const named = {};
  for (const box of document.querySelectorAll(".table-wrapper, .math-block, .cell_output .output, .broad, pre")) {
    box.classList.remove("fits");
    const fits = box.scrollWidth <= box.clientWidth;
    if (box.matches(".table-wrapper")) box.classList.toggle("fits", fits);
    if (fits && box.scrollHeight <= box.clientHeight) {
      for (const name of ["tabindex", "role", "aria-label"]) if (box.dataset.scrolls) box.removeAttribute(name);
      delete box.dataset.scrolls;
      continue;
    }
    box.dataset.scrolls = "true";
    box.tabIndex = 0;
    if (!box.matches(".table-wrapper")) continue;
    box.setAttribute("role", "region");
    const heading = box.closest("section")?.querySelector("h1, h2, h3");
    const first = heading?.firstChild?.textContent.trim() || "Table";
    named[first] = (named[first] || 0) + 1;
    const name = named[first] > 1 ? `${first} (${named[first]})` : first;
    box.setAttribute("aria-label", `${name}: a table that scrolls`);
  }
}
