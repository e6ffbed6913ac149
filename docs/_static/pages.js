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
  const named = {};
  for (const box of document.querySelectorAll(".table-wrapper, .math-block, .cell_output .output, pre")) {
    if (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight) continue;
    box.tabIndex = 0;
    if (!box.matches(".table-wrapper")) continue;
    box.setAttribute("role", "region");
    const heading = box.closest("section")?.querySelector("h1, h2, h3");
    const first = heading?.firstChild?.textContent.trim() || "Table";
    named[first] = (named[first] || 0) + 1;
    const name = named[first] > 1 ? `${first} (${named[first]})` : first;
    box.setAttribute("aria-label", `${name}: a table that scrolls`);
  }
});
