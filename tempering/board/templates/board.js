(() => {
  const form = document.querySelector(".filters"), body = document.querySelector(".board tbody"), rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const pick = () => {
    const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = ["state", "family", "kind"].every((key) => !form[key].value || row.dataset[key] === form[key].value);
      row.hidden = !(fits && words.every((word) => texts.get(row).includes(word)));
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = shown + (shown === 1 ? " paper" : " papers");
    document.querySelector(".none").hidden = shown > 0;
  };
  const heads = [...document.querySelectorAll(".board thead th")];
  const sort = (head) => {
    const key = head.dataset.key, down = head.getAttribute("aria-sort") === "ascending";
    const value = (row) => (key === "order" || key === "effect" ? (row.dataset[key] === "" ? null : Number(row.dataset[key])) : row.dataset[key]);
    const ranked = [...rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return (typeof x === "number" ? x - y : x.localeCompare(y)) * (down ? -1 : 1);
    });
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...ranked);
  };
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head));
    head.replaceChildren(button);
  }
  form.hidden = false;
  form.addEventListener("input", pick);
  form.addEventListener("submit", (event) => event.preventDefault());
  pick();
})();
