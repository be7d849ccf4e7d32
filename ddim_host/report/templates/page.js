"use strict";
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

// A click on a column header sorts the rows by that column, numerically if both cells begin with a number.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => {
        const [a, b] = [one, other].map((row) => row.cells[column].textContent.trim());
        const [x, y] = [parseFloat(a), parseFloat(b)];
        const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// A strip of pictures becomes one picture with a slider, initially at the last picture.
for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.children];
  const name = film.dataset.slider;
  const slider = make("input", { type: "range", min: 0, max: frames.length - 1, value: frames.length - 1 });
  const show = () => {
    frames.forEach((frame, at) => { frame.hidden = at !== slider.valueAsNumber; });
    slider.setAttribute("aria-valuetext", frames[slider.valueAsNumber].textContent.trim());
  };
  slider.addEventListener("input", show);
  film.before(make("label", { className: "slider" }, name, slider));
  film.classList.add("one");
  show();
}

// The point nearest to the pointer shows its values; arrow keys move from point to point.
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const { axes, curves } = JSON.parse(plot.querySelector("script").textContent);
  const shown = curves.filter((curve) => curve.points.length);
  if (!shown.length) continue;
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const words = make("output", { hidden: true });
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "at");
  ring.setAttribute("r", 4);
  plot.append(words);
  let at = [0, shown[0].points.length - 1];
  const show = () => {
    const { label, points } = shown[at[0]];
    const [left, top, x, y] = points[at[1]];
    ring.setAttribute("cx", left);
    ring.setAttribute("cy", top);
    svg.append(ring);
    words.hidden = false;
    words.textContent = `${label}: ${y} at ${axes[0]} ${x}`;
    words.style.left = `clamp(7.5rem, ${(100 * left) / width}%, 100% - 7.5rem)`;
    words.style.top = `${(100 * top) / height}%`;
  };
  const hide = () => {
    words.hidden = true;
    ring.remove();
  };
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = width / box.width;
    const [left, top] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let least = Infinity;
    shown.forEach(({ points }, curve) => points.forEach(([x, y], point) => {
      const far = Math.hypot(x - left, y - top);
      if (far < least) [least, at] = [far, [curve, point]];
    }));
    show();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", show);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const curve = (at[0] + move[0] + shown.length) % shown.length;
    at = [curve, Math.min(Math.max(at[1] + move[1], 0), shown[curve].points.length - 1)];
    show();
  });
  plot.tabIndex = 0;
  plot.setAttribute("role", "group"); // an image would hide the values from screen readers
}

// A button beside each command copies it.
for (const code of document.querySelectorAll(".commands code")) {
  const button = make("button", { type: "button", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy: ${code.textContent}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  code.after(button);
}

// Printed pages show all details expanded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
