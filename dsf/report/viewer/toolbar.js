// One row of controls; those for which there is no room wait in a menu at its end.

class Toolbar {
  /** `always` stay in the row; of the groups in `foldable` the last goes into the menu first. */
  constructor(always, foldable) {
    this.foldable = foldable;
    this.sheet = make("div", { className: "sheet" });
    this.menu = make("details", { className: "menu" }, make("summary", { ariaLabel: "More controls" },
      "⋯", make("span", { className: "word" }, " More")), this.sheet);
    this.root = make("div", { className: "bar row" }, ...always, ...foldable, this.menu);
    this.menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.menu.open) this.close();
    });
    this.menu.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !this.menu.contains(relatedTarget)) this.menu.open = false;
    });
    new ResizeObserver(() => this.fit()).observe(this.root);
  }

  /** Move as many groups into the menu as have no room in the row. */
  fit() {
    const { root, menu, sheet, foldable } = this, held = root.getRootNode().activeElement;
    const full = () => root.scrollWidth > root.clientWidth;
    root.classList.remove("tight", "wrapped");
    menu.before(...foldable);
    menu.hidden = true;
    menu.hidden = !full();
    const [last, ...others] = [...foldable].reverse();
    const fold = (group) => () => sheet.prepend(group);
    for (const step of [fold(last), () => root.classList.add("tight"), ...others.map(fold)]) {
      if (full()) step();
    }
    root.classList.toggle("wrapped", full());
    if (menu.hidden) menu.open = false;
    if (foldable.some((group) => group.contains(held))) held.focus({ preventScroll: true });
  }

  /** Open the menu if a control waits in it. */
  reveal(control) {
    if (this.sheet.contains(control)) this.menu.open = true;
  }

  close() {
    this.menu.open = false;
    this.menu.firstChild.focus();
  }
}
