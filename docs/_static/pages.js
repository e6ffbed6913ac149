// What is wider than the page scrolls inside itself: keys reach it, and it has a name.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role='heading']")) caption.ariaLevel = "2";
  for (const inner of document.querySelectorAll("ul > ul")) inner.previousElementSibling?.append(inner); // a list holds items alone
  if (!document.querySelector("h1")) { // as on the page of a search
    const heading = document.createElement("h1");
    heading.textContent = document.title.split(" - ")[0];
    document.querySelector("article")?.prepend(heading);
  }
  const drawers = { ".sidebar-drawer": "Pages", ".toc-drawer": "On this page" };
  for (const [drawer, name] of Object.entries(drawers)) document.querySelector(drawer)?.setAttribute("aria-label", name);
  for (const cell of document.querySelectorAll(".table-wrapper td")) { // sentences get room, numbers no line break
    const size = cell.textContent.trim().length;
    cell.classList.add(size > 60 ? "long" : size > 20 ? "some" : size > 11 ? "plain" : "short");
  }
  boxes();
  addEventListener("resize", boxes);
});

function boxes() {
  const named = {};
  for (const box of document.querySelectorAll(".table-wrapper, .math-block, .cell_output .output, pre")) {
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
